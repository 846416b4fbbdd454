"""Golden files: reviewed output of the product. UPDATE_GOLDEN=1 writes them; review the difference like code."""

import difflib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent


class Plain(yaml.SafeDumper):
    """A golden is read from top to bottom: no anchors, and text of several lines keeps its lines."""

    def ignore_aliases(self, _data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


Plain.add_representer(str, Plain.represent_str)


def dump(*documents: Any, width: int = 10_000) -> str:
    """Documents as YAML for a golden file; a text is one line unless `width` breaks it."""
    text: str = yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=width, allow_unicode=True)
    return text


def check(name: str, text: str) -> None:
    """Fail with a unified diff if the text differs from the golden file, or write the file if UPDATE_GOLDEN is set."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    if text != golden:
        lines = difflib.unified_diff(
            golden.splitlines(), text.splitlines(), f"golden/{name}", "this version", lineterm="", n=3
        )
        difference = "\n".join(lines)
        pytest.fail(f"{difference}\nReview the difference, then accept it with UPDATE_GOLDEN=1.", pytrace=False)
