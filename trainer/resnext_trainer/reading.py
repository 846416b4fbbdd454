"""From a file and `--set a.b=value` to a resolved configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from resnext_trainer.config import RESOLVED, WRITTEN, InvalidConfig, Training, resolve


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: 2026-01-01 is a text."""

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_NOT_READABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError)
"""What YAML raises, and JSON of what it has made: a circle, a set, bytes, a thousand levels."""


def read(path: Path | None, assignments: Sequence[str] = ()) -> Training:
    """The configuration in a file (none: the defaults), with the assignments over it. Raises InvalidConfig."""
    written = _written(path) if path else {}
    for assignment in assignments:
        _assign(written, assignment)
    training = resolve(written)
    if path and path.name == RESOLVED and (beside := path.with_name(WRITTEN)).is_file():
        by_user = _written(beside)
        for assignment in assignments:
            _assign(by_user, assignment)
        return training.as_written_by(by_user)
    return training


def _written(path: Path) -> dict[str, Any]:
    """`spec.training` of a whole resource, or the file as it is; JSON is YAML."""
    try:
        document = _loaded(path.read_text())
    except OSError as error:
        raise InvalidConfig(f"--config {path}: {error.strerror}") from None
    except _NOT_READABLE as error:
        raise InvalidConfig(f"--config {path} is neither YAML nor JSON: {error}") from None
    if isinstance(document, dict) and "kind" in document:
        spec = document.get("spec")
        document = spec.get("training", {}) if isinstance(spec, dict) else None
    if not isinstance(document, dict):
        raise InvalidConfig(
            f"--config {path} holds no settings: write a ResNeXtTraining, or what stands under spec.training"
        )
    return document


def _assign(written: dict[str, Any], assignment: str) -> None:
    """`data.path=/data` as if it stood in the file; the value is read as YAML, so that 2 is a number."""
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise InvalidConfig(f"--set {assignment}: write it as field=value, such as --set data.path=/data")
    *parents, field = name.split(".")
    for parent in parents:
        below = written.setdefault(parent, {})
        if not isinstance(below, dict):
            raise InvalidConfig(f"--set {assignment}: {parent} is {below!r} and has no fields")
        written = below
    written[field] = _value(value)


def _value(text: str) -> Any:
    try:
        return _loaded(text)
    except _NOT_READABLE:
        return text


def _loaded(text: str) -> Any:
    """What JSON can say as well; one of _NOT_READABLE for all else."""
    document = yaml.load(text, _Loader)  # a SafeLoader
    json.dumps(document)
    return document
