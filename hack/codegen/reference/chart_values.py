"""The chart's values, from the comments in values.yaml."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hack.codegen.reference.tables import table

_KEY = re.compile(r"( *)(\w+):")


def page(chart: Path) -> str:
    """Every value: name, default, and the comment above it."""
    defaults = dict(_values(yaml.safe_load((chart / "values.yaml").read_text())))
    rows = [(f"`{name}`", f"`{json.dumps(defaults[name])}`", text) for name, text in described(chart)]
    return (
        "# Chart values\n\n"
        "The values of `charts/resnext-operator`. The chart's schema rejects other keys.\n\n"
        + "\n".join(table(("Value", "Default", "Description"), rows))
        + "\n[Operator settings](operator-settings.md) lists the keys of `settings`.\n"
    )


def described(chart: Path) -> Iterator[tuple[str, str]]:
    """Name and description of each value; the description is empty if there is no comment."""
    text = (chart / "values.yaml").read_text()
    found = comments(text)
    return ((name, found.get(name, "")) for name, _ in _values(yaml.safe_load(text)))


def comments(text: str) -> dict[str, str]:
    """The comment directly above each key, by the key's dotted name."""
    found: dict[str, str] = {}
    path: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            above.append(line.strip().lstrip("# "))
            continue
        if match := _KEY.match(line):
            path[len(match[1]) // 2 :] = [match[2]]
            if above:
                found[".".join(path)] = " ".join(above)
        above = []
    return found


def _values(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        # Labels, lists and the pod's resources are one value each.
        nested = isinstance(value, dict) and value and prefix == "" and key != "resources"
        yield from _values(value, f"{key}.") if nested else [(f"{prefix}{key}", value)]
