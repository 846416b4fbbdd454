"""Fields of the configuration that earlier versions stored under other names.

Checkpoints store the configuration of their run. With the current names, a run keeps its recipe and settings after an
upgrade, and a renamed field is not a difference.
"""

from collections.abc import Mapping
from typing import Any

RENAMED: Mapping[str, str] = {
    "checkpoint.everyEpochs": "checkpoint.intervalEpochs",
    "checkpoint.everyMinutes": "checkpoint.intervalMinutes",
    "data.badRecords": "data.maxBadRecordFraction",
    "evaluation.everyEpochs": "evaluation.intervalEpochs",
    "model.initFan": "model.initMode",
    "optimizer.warmupFromBatch": "optimizer.warmupMinGlobalBatch",
    "stopAt.top1": "targetTop1",
}
"""New names by old names; renamed with v1alpha2."""

_VALUES: Mapping[str, Mapping[Any, Any]] = {"model.initFan": {"in": "fan_in", "out": "fan_out"}}


def with_current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stored provenance with the current names in `config` and `written`."""
    found = dict(stored)
    if isinstance(config := stored.get("config"), Mapping):
        found["config"] = _config(config)
    if isinstance(written := stored.get("written"), list | tuple):
        found["written"] = tuple(RENAMED.get(name, name) for name in written)
    return found


def _config(stored: Mapping[str, Any]) -> dict[str, Any]:
    config = {key: dict(value) if isinstance(value, Mapping) else value for key, value in stored.items()}
    for old, new in RENAMED.items():
        section, _, name = old.rpartition(".")
        holder = config.get(section)
        if not isinstance(holder, dict) or name not in holder:
            continue
        value = holder.pop(name)
        if not holder:
            del config[section]
        target, _, name = new.rpartition(".")
        into = config.setdefault(target, {}) if target else config
        if isinstance(into, dict):
            into.setdefault(name, _VALUES.get(old, {}).get(value, value) if isinstance(value, str) else value)
    return config
