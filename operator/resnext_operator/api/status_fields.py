"""Types of the status's fields, the base of its models, and how values that cannot be parsed are omitted."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from resnext_operator.api.objects import Manifest
from resnext_operator.api.timestamps import to_rfc3339, to_rfc3339_millis
from resnext_trainer.contract import CamelCaseModel

MAX_ATTEMPTS = 1_000_000
"""Maximum number of attempts; the number of the attempt is part of the names of pods."""

_UNKNOWN_BYTES, _UNKNOWN_FIELDS, _UNKNOWN_LEVELS = 4096, 16, 6
_MAX_SAFE_INTEGER = 2**53

_ROUNDS = 8
"""Passes over a stored status: each omits the values that the previous one could not parse, inner fields first."""

_YEARS = range(2000, 2200)
"""Times outside these years are invalid: calculations with them would overflow."""


# A status contains dozens of times, and most do not change between updates: parsing takes 8 microseconds each.
@lru_cache(maxsize=65_536)
def _parse_time(value: str, layout: str) -> datetime:
    found = datetime.strptime(value, layout).replace(tzinfo=UTC)
    if found.year not in _YEARS:
        raise ValueError("not a time of a training")
    return found


def _second(value: Any) -> datetime:
    """Parse RFC 3339 in UTC with whole seconds."""
    if isinstance(value, datetime):
        return value.replace(microsecond=0)
    if not isinstance(value, str) or len(value) != 20:
        raise ValueError("not a time in UTC")
    return _parse_time(value, "%Y-%m-%dT%H:%M:%SZ")


def _millisecond(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise ValueError("not a time in UTC")
    return _parse_time(value, "%Y-%m-%dT%H:%M:%S.%fZ")


def displayed_time(value: Any) -> str:
    """A time in the format of the trainer, which is only displayed."""
    if not isinstance(value, str):
        raise ValueError("not a time")
    datetime.fromisoformat(value)
    return value


def last(most: int) -> BeforeValidator:
    """Truncate a list to its last items."""
    return BeforeValidator(lambda value: value[-most:] if isinstance(value, list) else value)


TEXT_SCHEMA = WithJsonSchema({"type": "string"})
_TIME_SCHEMA = WithJsonSchema({"type": "string", "format": "date-time"})
INT64, INT32 = {"format": "int64"}, {"format": "int32"}

Time = Annotated[datetime, PlainValidator(_second), PlainSerializer(to_rfc3339, return_type=str), _TIME_SCHEMA]
"""Whole seconds in UTC."""

PreciseTime = Annotated[
    datetime, PlainValidator(_millisecond), PlainSerializer(to_rfc3339_millis, return_type=str), _TIME_SCHEMA
]
"""UTC with milliseconds, for delays of less than a few seconds."""

Text = Annotated[str, Field(max_length=32_768)]
Count = Annotated[int, Field(ge=0, le=_MAX_SAFE_INTEGER, json_schema_extra=INT64)]
Tally = Annotated[int, Field(ge=0, le=MAX_ATTEMPTS, json_schema_extra=INT32)]
Seconds = Annotated[float, Field(ge=0, le=_MAX_SAFE_INTEGER)]
Number = Annotated[float, Field(ge=-_MAX_SAFE_INTEGER, le=_MAX_SAFE_INTEGER)]
ExitCode = Annotated[int, Field(ge=-(2**31), le=2**31 - 1, json_schema_extra=INT32)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_ATTEMPTS, json_schema_extra=INT32)]
WorkerCount = Annotated[int, Field(ge=1, le=4096, json_schema_extra=INT32)]
Lines = Annotated[list[Text], last(1000)]


class StatusModel(CamelCaseModel):
    """Base of the objects in the status, with field names in camelCase."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    known: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields in the API."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.known = frozenset(str(field.alias) for field in cls.model_fields.values())

    @model_validator(mode="before")
    @classmethod
    def _without_large_unknown_fields(cls, value: Any, info: ValidationInfo) -> Any:
        if not info.context or not isinstance(value, dict) or value.keys() <= cls.known:
            return value
        unknown = [key for key in value if key not in cls.known]
        kept = {key for key in unknown[:_UNKNOWN_FIELDS] if _small(key, value[key])}
        return {key: field for key, field in value.items() if key in cls.known or key in kept}

    def to_json(self) -> Manifest:
        """The object as JSON, without fields that have their default value."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @classmethod
    def parse(cls, stored: Any) -> Self:
        """The fields of a stored object that can be parsed."""
        value = stored if isinstance(stored, dict) else {}
        for _ in range(_ROUNDS):
            try:
                return cls.model_validate(value, by_name=False, context=True)
            except ValidationError as error:
                found = error.errors(include_url=False, include_context=False, include_input=False)
                value = _without(value, [_path(each) for each in found])
        return cls()


def _path(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Path of the value to omit because of an error: the whole object if a required field is missing."""
    found: tuple[str | int, ...] = error["loc"]
    return found[:-1] if error["type"] == "missing" else found


def _without(value: Any, paths: list[tuple[str | int, ...]]) -> Any:
    """A copy of a JSON value without the values at the given paths."""
    omitted = {path[0] for path in paths if len(path) == 1}
    inner: dict[str | int, list[tuple[str | int, ...]]] = {}
    for path in paths:
        if len(path) > 1:
            inner.setdefault(path[0], []).append(path[1:])

    def kept(key: str | int, field: Any) -> Any:
        return _without(field, inner[key]) if key in inner else field

    if isinstance(value, dict):
        return {key: kept(key, field) for key, field in value.items() if key not in omitted}
    if isinstance(value, list):
        return [kept(index, item) for index, item in enumerate(value) if index not in omitted]
    return value


def _small(key: str, value: Any) -> bool:
    """Whether an unknown field is small and not nested deeper than the known fields."""

    def shallow(part: Any, depth: int) -> bool:
        if isinstance(part, dict | list):
            inner = part.values() if isinstance(part, dict) else part
            return depth > 0 and all(shallow(each, depth - 1) for each in inner)
        if isinstance(part, int | float) and not isinstance(part, bool):
            return abs(part) <= _MAX_SAFE_INTEGER and math.isfinite(part)
        return isinstance(part, str | bool)

    return len(key) <= 128 and shallow(value, _UNKNOWN_LEVELS) and len(json.dumps(value)) <= _UNKNOWN_BYTES
