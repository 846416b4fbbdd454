"""Reads the configuration from a file and from `--set a.b=value`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnext_trainer.config import manifest_yaml, manifests
from resnext_trainer.config.manifest_yaml import InvalidManifest
from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import InvalidConfig, resolve, without_nulls

RESOLVED, WRITTEN = "training.json", "written.json"
"""Files of the ConfigMap: the resolved configuration, and those of its fields that the user wrote."""


def read(path: Path | None, assignments: Sequence[str] = ()) -> Training:
    """The configuration in a file (default: empty), overridden by the assignments. Raises InvalidConfig."""
    training = resolve(written(path, assignments))
    if path and path.name == RESOLVED and (as_written := path.with_name(WRITTEN)).is_file():
        return training.as_written_by(written(as_written, assignments))
    return training


def written(path: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `spec.training` as the user wrote it, without nulls. Raises InvalidConfig."""
    found = _in_file(path) if path else {}
    for assignment in assignments:
        _assign(found, assignment)
    return without_nulls(found, Training, "spec.training")


def _in_file(path: Path) -> dict[str, Any]:
    """`spec.training` of the only ResNeXtTraining in a file, or the content of the file if it is not a resource."""
    try:
        documents = manifest_yaml.documents(path.read_bytes())
        match documents:
            case [dict() as settings] if "kind" not in settings:
                return settings
            case [dict(), *_]:
                trainings = manifests.trainings(documents)
            case _:
                trainings = []
    except OSError as error:
        raise InvalidConfig(f"--config {path}: {error.strerror}") from None
    except InvalidManifest as error:
        raise InvalidConfig(f"--config {path}: {error}") from None
    match trainings:
        case [{"spec": {"training": dict() as settings}}]:
            return settings
        case [_]:
            raise InvalidConfig(f"--config {path}: spec.training: Required value: must be a mapping")
        case []:
            raise InvalidConfig(
                f"--config {path}: no settings found: write a {manifests.KIND} or the content of spec.training"
            )
    names = ", ".join(each["metadata"]["name"] for each in trainings)
    raise InvalidConfig(
        f"--config {path}: found {len(trainings)} trainings ({names}): the file must contain exactly one"
    )


def _assign(written: dict[str, Any], assignment: str) -> None:
    """Apply an assignment such as `data.path=/data`; the value is parsed as YAML, so that 2 is a number."""
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise InvalidConfig(f"--set {assignment}: must have the form field=value, such as --set data.path=/data")
    *parents, field = name.split(".")
    for parent in parents:
        if written.get(parent) is None:
            written[parent] = {}
        if not isinstance(written[parent], dict):
            raise InvalidConfig(f"--set {assignment}: {parent} is {written[parent]!r} and has no fields")
        written = written[parent]
    written[field] = _value(value)


def _value(text: str) -> Any:
    try:
        return manifest_yaml.value(text)
    except InvalidManifest:
        return text
