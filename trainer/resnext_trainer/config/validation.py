"""Resolves and validates a configuration, with errors in the format of the API server."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from resnext_trainer.config import presets
from resnext_trainer.config.models import Optimizer, Training
from resnext_trainer.config.rules import Config


class InvalidConfig(ValueError):
    """The configuration is invalid; the message names each field, the problem and the correction."""


def resolve(written: Mapping[str, Any]) -> Training:
    """The resolved configuration: the user's fields, then those of the preset, then those of the published recipe.

    Raises InvalidConfig with messages in the format of the API server; field paths start with `spec.training`.
    """
    written = without_nulls(written, Training, "spec.training")
    settings = dict(written)
    if (recipe := presets.PRESETS.get(str(written.get("preset")))) is not None:
        settings = _merged(recipe, written)
    settings = _merged(_dependent_defaults(settings), settings)
    try:
        # Through JSON, because strict validation accepts a list for a tuple only there.
        return Training.model_validate_json(json.dumps(settings), by_name=False).as_written_by(written)
    except ValidationError as error:
        raise InvalidConfig(explain(error)) from None


def without_nulls(written: Mapping[str, Any], model: type[Config], root: str) -> dict[str, Any]:
    """The mapping as the API server stores it: a null value is dropped, unless its field is unknown.

    Raises InvalidConfig.
    """
    kept: dict[str, Any] = _without_nulls(written)
    if kept != written:
        try:
            model.model_validate_json(json.dumps(written), by_name=False)
        except ValidationError as error:
            unknown = [each for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
            if unknown:
                raise InvalidConfig("\n".join(_sentence(root, dict(each)) for each in unknown)) from None
    return kept


def _without_nulls(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _without_nulls(each) for key, each in value.items() if each is not None}
        case list():
            return [_without_nulls(each) for each in value]
    return value


def _dependent_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that depend on other fields; the validation reports wrong types later."""
    precision, epochs = settings.get("precision"), settings.get("epochs")
    mode = precision.get("mode") if isinstance(precision, Mapping) else None
    defaults: dict[str, Any] = {"batchSize": presets.BATCH_SIZE.get(str(mode), presets.BATCH_SIZE["fp16"])}
    if isinstance(epochs, int) and epochs > 0:
        defaults["optimizer"] = {"warmupEpochs": min(Optimizer().warmup_epochs, epochs)}
    return defaults


def explain(error: ValidationError, root: str = "spec.training") -> str:
    """The errors of pydantic in the format of the API server, one per line."""
    by_field: dict[str, list[dict[str, Any]]] = {}
    for complaint in error.errors(include_url=False):
        by_field.setdefault(_field(root, complaint["loc"]), []).append(dict(complaint))
    return "\n".join(sentence for complaints in by_field.values() for sentence in _sentences(root, complaints))


def _sentences(root: str, complaints: list[dict[str, Any]]) -> list[str]:
    """One message for a value that matches no member of a union, otherwise one per error."""
    if len(complaints) == 1 or {complaint["type"] for complaint in complaints} <= {"rule"}:
        return [_sentence(root, complaint) for complaint in complaints]
    meant = [complaint for complaint in complaints if not complaint["type"].endswith("_type")]
    if meant:
        return [_sentence(root, complaint) for complaint in meant]
    kinds = " or ".join(complaint["msg"].removeprefix("Input should be ") for complaint in complaints)
    written = json.dumps(complaints[0]["input"])
    quotes = f': quote it ("{written}")' if isinstance(complaints[0]["input"], float) else ""
    return [f"{_field(root, complaints[0]['loc'])}: Invalid value: {written}: should be {kinds}{quotes}"]


def _field(root: str, path: tuple[int | str, ...]) -> str:
    field = root
    for part in path:
        # pydantic adds the members of a union ("int", "literal['dynamic']") to the path.
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.isidentifier() and part != "int":
            field += f".{part}"
    return field


def _sentence(root: str, complaint: dict[str, Any]) -> str:
    field = _field(root, complaint["loc"])
    context = complaint.get("ctx", {})
    match complaint["type"]:
        case "rule":
            return f"{field}.{context['field']}: Invalid value: {context['message']}"
        case "missing":
            return f"{field}: Required value"
        case "extra_forbidden":
            name = str(complaint["loc"][-1])
            return f'unknown field "{field}"' if name.isidentifier() else f'unknown field "{name}" in {field}'
        case "literal_error":
            supported = context["expected"].replace("'", '"').replace(" or ", ", ")
            return f"{field}: Unsupported value: {json.dumps(complaint['input'])}: supported values: {supported}"
        case "string_too_long":
            # Without the value, which may be very long.
            return f"{field}: Too long: may not be more than {context['max_length']} bytes"
        case "too_long":
            most = context["max_length"]
            return f"{field}: Too many: {len(complaint['input'])}: must have at most {most} items"
        case _:
            words = complaint["msg"].replace("Input should be", "should be")
            return f"{field}: Invalid value: {json.dumps(complaint['input'])}: {words}"


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
