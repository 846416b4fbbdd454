"""From a file and `--set a.b=value` to a resolved configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnext_trainer.config import manifest_yaml, manifests
from resnext_trainer.config.manifest_yaml import InvalidManifest
from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import InvalidConfig, resolve, without_nulls

RESOLVED, WRITTEN = "training.json", "written.json"
"""Files of a training's ConfigMap: the resolved configuration, and next to it what of that the user wrote."""


def read(path: Path | None, assignments: Sequence[str] = ()) -> Training:
    """The configuration in a file (none: the defaults), with the assignments over it. Raises InvalidConfig."""
    training = resolve(written(path, assignments))
    if path and path.name == RESOLVED and (beside := path.with_name(WRITTEN)).is_file():
        return training.as_written_by(written(beside, assignments))
    return training


def written(path: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """What the user wrote, as it would stand under `spec.training`, without nulls. Raises InvalidConfig."""
    found = _in_file(path) if path else {}
    for assignment in assignments:
        _assign(found, assignment)
    return without_nulls(found, Training, "spec.training")


def _in_file(path: Path) -> dict[str, Any]:
    """`spec.training` of the only ResNeXtTraining in a file, or the file as it is."""
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
                f"--config {path} holds no settings: write a {manifests.KIND}, or what stands under spec.training"
            )
    names = ", ".join(each["metadata"]["name"] for each in trainings)
    raise InvalidConfig(f"--config {path} holds {len(trainings)} trainings ({names}): keep one of them in the file")


def _assign(written: dict[str, Any], assignment: str) -> None:
    """`data.path=/data` as if it stood in the file; the value is read as YAML, so that 2 is a number."""
    name, equals, value = assignment.partition("=")
    if not equals or not name:
        raise InvalidConfig(f"--set {assignment}: write it as field=value, such as --set data.path=/data")
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
