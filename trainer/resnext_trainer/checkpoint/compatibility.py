"""Compares a configuration with that of a run, and determines the settings that the run resumes with. Pure.

Only fields that the user set are compared. The others keep the value of the run, so that a version with different
defaults does not change a run. Fields from a preset keep their value as well, unless the user selects another preset.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from resnext_trainer.checkpoint.provenance import dumped
from resnext_trainer.config import presets
from resnext_trainer.config.models import RESUME, Training, fields
from resnext_trainer.config.validation import InvalidConfig, explain

_DATASET = ("data.path", "data.indexPath")

_DEFAULTS = dumped(Training())


@dataclass(frozen=True)
class Difference:
    """A field whose value differs from that of the run."""

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field}: was {shown(self.before)}, is {shown(self.now)}"


@dataclass(frozen=True)
class Comparison:
    """Differences between a configuration and that of a run."""

    recipe: tuple[Difference, ...]
    """Fields of the recipe that the user set and that differ."""
    run: tuple[Difference, ...]
    """Other fields that the user set and that differ."""
    kept: tuple[Difference, ...]
    """Fields that the user did not set: `before` is the value of the run, which applies; `now` is the default."""
    unknown: tuple[str, ...]
    """Fields of the run that this version does not support."""
    now: Training
    merged: Mapping[str, Any]
    """The fields that the user set, and the values of the run for all others."""

    def config(self) -> Training:
        """The settings that the run resumes with. Raises InvalidConfig if set and kept values together are invalid."""
        if not self.kept:
            return self.now
        try:
            resumed = Training.model_validate_json(json.dumps(self.merged))
        except ValidationError as error:
            names = ", ".join(f"{each.field} {shown(each.before)}" for each in self.kept)
            raise InvalidConfig(f"{explain(error)} (unset fields have the values of the run: {names})") from None
        return resumed.as_written_by(_nested(self.now.written))


def compare(now: Training, before: Mapping[str, Any], *, everywhere: bool = False) -> Comparison:
    """Compares a configuration with the stored one of a run.

    everywhere: also keep the dataset paths of the run unless the user set them; for commands that do not train.
    """
    ours = dumped(now)
    written = set(now.written)
    if now.preset is not None and now.preset != before.get("preset"):
        written |= fields(presets.PRESETS[now.preset])
    compared: dict[str, list[Difference]] = {"recipe": [], "run": []}
    kept = []
    merged = json.loads(json.dumps(ours))
    for field, resume in RESUME.items():
        was, value = _value(before, field), _value(ours, field)
        if field in written and not _has(before, field):
            was = _value(_DEFAULTS, field)  # from a version without this field, or a model without custom
        if resume is None or was == value:
            continue
        difference = Difference(field, was, value)
        if field in written:
            compared[resume.name].append(difference)
        elif (resume.kept or (everywhere and field in _DATASET)) and _has(before, field):
            kept.append(difference)
            _set(merged, field, was)
    if "optimizer.warmupEpochs" not in written:
        # The default warm-up is limited to the number of epochs here as well, so that training fewer epochs does not
        # require a change to the recipe.
        merged["optimizer"]["warmupEpochs"] = min(merged["optimizer"]["warmupEpochs"], merged["epochs"])
    return Comparison(
        recipe=tuple(compared["recipe"]),
        run=tuple(compared["run"]),
        kept=tuple(kept),
        now=now,
        merged=merged,
        unknown=tuple(sorted(fields(before) - RESUME.keys() - _containers())),
    )


def _nested(written: frozenset[str]) -> dict[str, Any]:
    """Settings with these fields; their values are irrelevant."""
    settings: dict[str, Any] = {}
    for field in written:
        _set(settings, field, True)
    return settings


def _containers() -> set[str]:
    """Fields with nested models, such as model.custom, which are stored as null if unset."""
    return {field.rsplit(".", depth)[0] for field in RESUME for depth in range(1, field.count(".") + 1)}


def _has(settings: Mapping[str, Any], field: str) -> bool:
    """Whether the settings contain the field, even as null."""
    *parents, name = field.split(".")
    for parent in parents:
        below = settings.get(parent)
        if not isinstance(below, Mapping):
            return False
        settings = below
    return name in settings


def _value(settings: Mapping[str, Any], field: str) -> Any:
    value: Any = settings
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _set(settings: dict[str, Any], field: str, value: Any) -> None:
    *parents, name = field.split(".")
    for parent in parents:
        below = settings.get(parent)
        if not isinstance(below, dict):
            below = settings[parent] = {}
        settings = below
    settings[name] = value


def shown(value: Any) -> str:
    """A value in the spelling of the user."""
    return "unset" if value is None else json.dumps(value)
