"""The commands and manifests in the documentation are accepted by the programs that they call."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.codegen.chart import helm
from resnext_operator.cli import parser as operator_parser
from resnext_trainer.cli.main import parser as trainer_parser
from resnext_trainer.config import loading

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted(
    [
        document
        for pattern in ("*.md", "docs/*.md", "*/README.md", "hack/*/README.md", "docs/benchmarks/*.md")
        for document in ROOT.glob(pattern)
    ]
)
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
PARSERS = {"resnext-operator": operator_parser(), "resnext-train": trainer_parser()}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Document and text of each code block of a language."""
    for path in DOCUMENTS:
        for block in BLOCK.finditer(path.read_text()):
            if block[2] == language:
                yield str(path.relative_to(ROOT)), block[3]


def commands() -> Iterator[list[str]]:
    """The words of each command; a line that ends with a backslash continues."""
    for _, text in blocks("console"):
        lines = text.replace("\\\n", " ").splitlines()
        # In a recorded session, all lines without a prompt are output.
        recorded = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from filter(None, (shlex.split(line, comments=True) for line in recorded or lines))


def calls(program: str) -> list[list[str]]:
    """The arguments of each call of a program, also behind mpirun."""
    found = [
        words[words.index(program) + 1 :]
        for words in commands()
        if program in words and words[0] in (program, "mpirun")
    ]
    assert found, f"no document calls {program}"
    return found


@pytest.mark.parametrize("program", PARSERS)
def test_documented_calls_are_parsed(program: str) -> None:
    """Commands, flags and choices exist."""
    for arguments in calls(program):
        PARSERS[program].parse_args(arguments)


def test_documented_settings_resolve() -> None:
    """Fields and values behind `--set`."""
    settings = [PARSERS["resnext-train"].parse_args(words) for words in calls("resnext-train") if "--set" in words]
    assert settings
    for options in settings:
        loading.read(None, options.assignments)


def test_documented_make_targets_exist() -> None:
    """The Makefile has a rule for each."""
    targets = {word for words in commands() if words[0] == "make" for word in words[1:] if "=" not in word}
    rules = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= targets <= set(rules)


def test_documented_helm_values_are_accepted() -> None:
    """The chart's schema rejects unknown values."""
    installs = [words for words in commands() if words[:2] == ["helm", "install"]]
    assert installs
    for words in installs:
        arguments = [word for word in words[2:] if word != "--create-namespace"]
        subprocess.run([helm(), "template", *arguments], cwd=ROOT, check=True, capture_output=True)


def test_documented_yaml_is_accepted(tmp_path: Path) -> None:
    """A manifest of a training renders; other YAML holds values of the chart."""
    found = list(blocks("yaml"))
    assert found
    for index, (document, text) in enumerate(found):
        path = tmp_path / f"{index}.yaml"
        path.write_text(text)
        if "apiVersion" in yaml.safe_load(text):
            options = PARSERS["resnext-operator"].parse_args(["render", "-f", str(path)])
            assert options.act(options) == 0, document
        else:
            command = [helm(), "template", "resnext-operator", "charts/resnext-operator", "--values", str(path)]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_links_lead_to_files() -> None:
    """mkdocs checks the links within docs/; these are outside of it."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("hack/*/README.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path}: {target}"
