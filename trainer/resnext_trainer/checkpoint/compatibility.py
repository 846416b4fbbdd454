"""Whether a run and a configuration belong together, and the settings that the run resumes with. Pure.

Only fields that the user wrote are compared. The others keep the run's value, so that a version with other defaults
changes no run; and so do those of a preset, unless the user names another one.
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
    """A field whose value is not the run's."""

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field}: was {shown(self.before)}, is {shown(self.now)}"


@dataclass(frozen=True)
class Comparison:
    """A configuration next to that of a run."""

    recipe: tuple[Difference, ...]
    """Written fields of the recipe that differ."""
    run: tuple[Difference, ...]
    """Other written fields that differ."""
    kept: tuple[Difference, ...]
    """Fields that nobody wrote now: `before` is the run's value, which applies, `now` the preset's or the default."""
    unknown: tuple[str, ...]
    """Fields that the run has and this version does not know."""
    now: Training
    merged: Mapping[str, Any]
    """The written fields, over the run's values of all others."""

    def config(self) -> Training:
        """What the run resumes with. Raises InvalidConfig where written and kept values together break a rule."""
        if not self.kept:
            return self.now
        try:
            resumed = Training.model_validate_json(json.dumps(self.merged))
        except ValidationError as error:
            names = ", ".join(f"{each.field} {shown(each.before)}" for each in self.kept)
            raise InvalidConfig(f"{explain(error)} (with the run's values of what is not written: {names})") from None
        return resumed.as_written_by(_nested(self.now.written))


def compare(now: Training, before: Mapping[str, Any], *, everywhere: bool = False) -> Comparison:
    """The configuration next to a run's stored one.

    `everywhere`: the dataset's place, too, is the run's if nobody wrote another; for commands that do not train.
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
            was = _value(_DEFAULTS, field)  # of a version without this field, or of a network without custom
        if resume is None or was == value:
            continue
        difference = Difference(field, was, value)
        if field in written:
            compared[resume.name].append(difference)
        elif (resume.kept or (everywhere and field in _DATASET)) and _has(before, field):
            kept.append(difference)
            _set(merged, field, was)
    if "optimizer.warmupEpochs" not in written:
        # As the default does: to train fewer epochs must not need a change of the recipe.
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
    """Settings that hold these fields; their values do not matter."""
    settings: dict[str, Any] = {}
    for field in written:
        _set(settings, field, True)
    return settings


def _containers() -> set[str]:
    """model.custom and the like, which are stored as null where they hold no field."""
    return {field.rsplit(".", depth)[0] for field in RESUME for depth in range(1, field.count(".") + 1)}


def _has(settings: Mapping[str, Any], field: str) -> bool:
    """Whether the settings know the field, be it as null."""
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
    """A value as a user would write it."""
    return "unset" if value is None else json.dumps(value)
