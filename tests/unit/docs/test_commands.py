"""The commands and manifests in the documentation are accepted by the programs that they call."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from resnext_operator.cli import parser as operator_parser
from resnext_trainer.cli.main import parser as trainer_parser
from resnext_trainer.config import loading
from tests.support.chart import helm, render
from tests.support.code_blocks import ROOT, arguments, blocks, commands

PARSERS = {"resnext-operator": operator_parser(), "resnext-train": trainer_parser()}


@pytest.mark.parametrize("program", PARSERS)
def test_documented_calls_are_parsed(program: str) -> None:
    """Commands, flags and choices exist."""
    for words in arguments(program):
        PARSERS[program].parse_args(words)


def test_documented_settings_resolve() -> None:
    """The fields and values after `--set` are valid."""
    settings = [PARSERS["resnext-train"].parse_args(words) for words in arguments("resnext-train") if "--set" in words]
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
    installs = [words for words in commands() if words[:2] in (["helm", "install"], ["helm", "upgrade"])]
    assert {words[1] for words in installs} == {"install", "upgrade"}
    for words in installs:
        options = [word for word in words[2:] if word not in ("--create-namespace", "--reset-then-reuse-values")]
        helm("template", *options, folder=ROOT)


def test_documented_yaml_is_accepted(tmp_path: Path) -> None:
    """A manifest of a training or a kustomization renders; other YAML holds values of the chart."""
    found = list(blocks("yaml"))
    assert found
    for index, (document, text) in enumerate(found):
        path = tmp_path / f"{index}.yaml"
        path.write_text(text)
        content = yaml.safe_load(text)
        if content.get("kind") == "Kustomization":
            # In the documents, its paths are relative to the root of a clone.
            path = tmp_path / "kustomization.yaml"
            path.write_text(text.replace("manifests/", f"{os.path.relpath(ROOT, tmp_path)}/manifests/"))
            subprocess.run(["kubectl", "kustomize", tmp_path], check=True, capture_output=True)
        elif "apiVersion" in content:
            options = PARSERS["resnext-operator"].parse_args(["render", "-f", str(path)])
            assert options.act(options) == 0, document
        else:
            render("--values", str(path))


def test_links_lead_to_files() -> None:
    """mkdocs checks the links within docs/; these links point outside docs/."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("hack/*/README.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path}: {target}"
