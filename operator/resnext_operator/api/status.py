"""A stored status as the policy can work with it: users who may write `/status` may have written anything.

What cannot be parsed is left out, so the next status that the operator writes replaces it. Fields that this version
does not know, such as those of a newer one, are kept while they are small.
"""

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from resnext_operator.api.objects import Manifest

MAX_RECORDED_ATTEMPTS = MAX_RECORDED_STARTS = 10
MAX_ATTEMPTS = 1_000_000
"""Attempts of a training; their number is part of a pod's name."""

_UNKNOWN_BYTES, _UNKNOWN_FIELDS = 4096, 16
_TEXT = 32_768
_YEARS = range(2000, 2200)
"""Times outside of these years are no times of a training, and sums with them would overflow."""

_BIG = 2**53

Parser = Callable[[Any], Any]
"""Returns the value, or None for one that cannot be parsed."""


class Phase(StrEnum):
    """Where a training stands."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED)


def readable(stored: Any) -> Manifest:
    """The fields of a stored status that can be parsed."""
    status = _fields(stored, _STATUS)
    # Without its phase an ended training would run again.
    if "phase" not in status:
        for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED):
            if _condition(status, phase.value).get("status") == "True":
                status["phase"] = phase.value
                break
    if Phase(status.get("phase", Phase.PENDING)).ended and "completionTime" not in status:
        ended = _condition(status, status["phase"])
        if "lastTransitionTime" in ended:
            status["completionTime"] = ended["lastTransitionTime"]
    return status


def _condition(status: Manifest, kind: str) -> Manifest:
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})


# -- values ------------------------------------------------------------------------------------------------------------


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= _TEXT else None


def integer(least: int = 0, most: int = _BIG) -> Parser:
    def parse(value: Any) -> int | None:
        right = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return value if right else None

    return parse


def number(value: Any) -> float | None:
    """A finite number; JSON has one type for both kinds."""
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return value if right and abs(value) <= _BIG and math.isfinite(value) else None


def timestamp(value: Any) -> str | None:
    """A time as the operator writes it, in UTC: its texts sort as the times do."""
    return value if isinstance(value, str) and len(value) == 20 and _is_time(value) else None


# A status holds dozens of times, most of them in each version of it: 8 microseconds for each otherwise.
@lru_cache(maxsize=65_536)
def _is_time(value: str) -> bool:
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").year in _YEARS
    except ValueError:
        return False


def instant(value: Any) -> str | None:
    """A time with milliseconds in UTC, for pauses of less than a few seconds."""
    try:
        found = datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ")
    except (TypeError, ValueError):
        return None
    return value if found.year in _YEARS else None


def _moment(value: Any) -> str | None:
    """A time as the trainer writes it, which is only displayed."""
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return text(value)


def _phase(value: Any) -> str | None:
    return value if isinstance(value, str) and value in set(Phase) else None


def _truth(value: Any) -> str | None:
    return value if value in ("True", "False", "Unknown") else None


def _list(parse: Parser, most: int) -> Parser:
    """A list without the items that cannot be parsed; the last ones if there are too many."""

    def parse_all(value: Any) -> list[Any] | None:
        if not isinstance(value, list):
            return None
        return [each for each in map(parse, value[-most:]) if each is not None]

    return parse_all


# -- objects -----------------------------------------------------------------------------------------------------------


def _fields(value: Any, parsers: Mapping[str, Parser]) -> Manifest:
    """The known fields of an object that can be parsed, and small unknown ones."""
    if not isinstance(value, dict):
        return {}
    found, unknown = {}, 0
    for key, field in value.items():
        if parse := parsers.get(key):
            if (parsed := parse(field)) is not None:
                found[key] = parsed
        elif unknown < _UNKNOWN_FIELDS and _small(key, field):
            found[key] = field
            unknown += 1
    return found


def _small(key: str, value: Any) -> bool:
    """Whether an unknown field is a plain one; what nests deeper than any field of ours is not."""

    def shallow(part: Any, depth: int) -> bool:
        if isinstance(part, dict | list):
            inner = part.values() if isinstance(part, dict) else part
            return depth > 0 and all(shallow(each, depth - 1) for each in inner)
        return isinstance(part, str | bool) or number(part) is not None

    return len(key) <= 128 and shallow(value, 6) and len(json.dumps(value)) <= _UNKNOWN_BYTES


def _object(parsers: Mapping[str, Parser], required: tuple[str, ...], *, closed: bool = False) -> Parser:
    """An object that is left out as a whole if a required field is missing; closed: without unknown fields."""

    def parse(value: Any) -> Manifest | None:
        found = _fields(value, parsers)
        if closed:
            found = {key: each for key, each in found.items() if key in parsers}
        return found if all(field in found for field in required) else None

    return parse


def _conditions(value: Any) -> list[Manifest] | None:
    """One of each type, the last one."""
    found = _list(_CONDITION, 64)(value)
    return None if found is None else list({each["type"]: each for each in found}.values())


def _attempt(value: Any) -> Manifest | None:
    found: Manifest | None = _object(_ATTEMPT, ("number", "startTime"))(value)
    if found is None:
        return None
    # An attempt ended with a cause, and only then was there something to blame.
    if "endTime" not in found or "cause" not in found:
        for field in ("endTime", "cause", "message", "exitCode", "pod", "node", "rank", "log", "checkpointStep"):
            found.pop(field, None)
    if ("firstStep" in found) != ("firstTime" in found):
        for field in ("firstStep", "firstTime"):
            found.pop(field, None)
    return found


def _attempts(value: Any) -> list[Manifest] | None:
    """In the order of their numbers, as they were written; only the last one may be under way."""
    found = _list(_attempt, MAX_RECORDED_ATTEMPTS)(value)
    if found is None:
        return None
    kept: list[Manifest] = []
    for each in found:
        if not kept or each["number"] > kept[-1]["number"]:
            kept.append(each)
    return [each for each in kept[:-1] if "endTime" in each] + kept[-1:]


_CONDITION = _object(
    {
        "type": text,
        "status": _truth,
        "reason": text,
        "message": text,
        "observedGeneration": integer(),
        "lastTransitionTime": timestamp,
    },
    ("type", "status", "reason", "message", "lastTransitionTime"),
)

_ATTEMPT: Mapping[str, Parser] = {
    "number": integer(1, MAX_ATTEMPTS),
    "startTime": timestamp,
    "endTime": timestamp,
    "firstStep": integer(),
    "firstTime": timestamp,
    "workers": integer(1, 4096),
    "checkpointStepBefore": integer(),
    "resumedStep": integer(),
    "startMessage": text,
    "checkpointStep": integer(),
    "cause": text,
    "message": text,
    "exitCode": integer(-(2**31), 2**31),
    "pod": text,
    "node": text,
    "rank": integer(),
    "log": _list(text, 1000),
}

_FAILED_START: Mapping[str, Parser] = {
    "time": timestamp,
    "pod": text,
    "node": text,
    "reason": text,
    "exitCode": integer(-(2**31), 2**31),
    "message": text,
    "log": _list(text, 1000),
}

_REJECTION: Mapping[str, Parser] = {
    "cause": text,
    "role": text,
    "message": text,
    "since": timestamp,
    "heldSince": instant,
    "retryTime": instant,
    "tries": integer(0, MAX_ATTEMPTS),
    "released": integer(0, MAX_ATTEMPTS),
    "generation": integer(),
}

_PROGRESS = {
    "epoch": number,
    "epochs": integer(),
    "step": integer(),
    "steps": integer(),
    "imagesPerSecond": number,
    "loss": number,
    "top1": number,
    "top5": number,
    "bestTop1": number,
    "estimatedCompletionTime": timestamp,
    "updatedTime": timestamp,
}

_CHECKPOINT = {"step": integer(), "time": _moment, "path": text, "differences": _list(text, 1000)}

_STATUS: Mapping[str, Parser] = {
    "phase": _phase,
    "reason": text,
    "observedGeneration": integer(),
    "startTime": timestamp,
    "completionTime": timestamp,
    "conditions": _conditions,
    "attempts": _attempts,
    "failures": integer(0, MAX_ATTEMPTS),
    "disruptions": integer(0, MAX_ATTEMPTS),
    "podsAccountedUntil": timestamp,
    "failedStarts": _list(_object(_FAILED_START, ("time", "pod", "message")), MAX_RECORDED_STARTS),
    "rejection": _object(_REJECTION, ("cause", "message", "since", "retryTime")),
    "workers": _object({"replicas": integer(), "ready": integer()}, ("replicas", "ready"), closed=True),
    "progress": _object(_PROGRESS, ("epochs", "step", "steps", "updatedTime")),
    "stepSeconds": _list(lambda value: found if (found := number(value)) and found > 0 else None, 100),
    "checkpoint": _object(_CHECKPOINT, ("step", "time", "path")),
    "printed": _object({}, ()),
}
