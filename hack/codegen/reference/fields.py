"""The fields of a training's spec, with defaults, and of its status."""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from hack.codegen.reference.tables import table
from resnext_operator.api import crd
from resnext_operator.api.spec import Spec

Model = type[BaseModel]


def spec() -> str:
    """Every field of the spec: type, default and description, and the rules between fields."""
    return (
        "# Spec of a ResNeXtTraining\n\n"
        "`kubectl explain rnx.spec` prints the same descriptions. The defaults under `spec.training` apply if\n"
        "`preset` is unset; `resnext-train inspect --config FILE` prints every value that a manifest resolves to.\n\n"
        + "\n".join(_section("spec", _schema("spec"), Spec))
    )


def status() -> str:
    """Every field of the status: type and description."""
    return (
        "# Status of a ResNeXtTraining\n\n"
        "Only the operator writes the status. Programs should read the conditions; `phase` and `reason` summarize\n"
        "them.\n\n" + "\n".join(_section("status", _schema("status"), None))
    )


def _schema(part: str) -> dict[str, Any]:
    version = crd.manifest()["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return found


def _section(path: str, schema: dict[str, Any], model: Model | None) -> Iterator[str]:
    """A table of an object's fields, then the tables of the objects in them."""
    yield f"## {path}\n"
    yield f"{schema.get('description', '')}\n"
    required = schema.get("required", ())
    fields = _model_fields(model)
    if model is None:
        rows = [(f"`{name}`", kind(field), field.get("description", "")) for name, field in _properties(schema)]
        yield from table(("Field", "Type", "Description"), rows)
    else:
        yield from table(
            ("Field", "Type", "Default", "Description"),
            [
                (
                    f"`{name}`",
                    kind(field),
                    "required" if name in required else _default(fields.get(name)),
                    field.get("description", ""),
                )
                for name, field in _properties(schema)
            ],
        )
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "").removeprefix(".")
        yield f"- `{field}`: {rule['message']}" if field else f"- {rule['message']}"
    if schema.get("x-kubernetes-validations"):
        yield ""
    for name, field in _properties(schema):
        inner = field.get("items", field)
        if "properties" in inner:
            nested = _model_in(fields[name].annotation) if name in fields else None
            yield from _section(f"{path}.{name}" + ("[]" if "items" in field else ""), inner, nested)


def _properties(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(schema["properties"].items())


def _model_fields(model: Model | None) -> dict[str, FieldInfo]:
    """A model's fields by their alias, the name in manifests."""
    return {field.alias or name: field for name, field in model.model_fields.items()} if model else {}


def _model_in(annotation: Any) -> Model | None:
    """The model of a field: its type, the type of its items or one of the types of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _default(field: FieldInfo | None) -> str:
    """The default as JSON; empty if there is none, or if the field is an object, whose fields have their own."""
    if field is None or field.is_required():
        return ""
    default = field.get_default(call_default_factory=True)
    if default is None or default in ((), {}, "") or isinstance(default, BaseModel):
        return ""
    return f"`{json.dumps(TypeAdapter(Any).dump_python(default, mode='json'))}`"


def kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f"`{word}`" for word in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "items" in field:
        return f"list of {kind(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {kind(field['additionalProperties'])}"
    return " ".join([str(field.get("type", "object")), ", ".join(_bounds(field))]).strip()


def _bounds(field: dict[str, Any]) -> Iterator[str]:
    """Exclusive bounds are flags in OpenAPI v3, which the CRD uses, and numbers in JSON Schema."""
    for bound, exclusive, inclusive_sign, exclusive_sign in (
        ("minimum", "exclusiveMinimum", "≥", ">"),
        ("maximum", "exclusiveMaximum", "≤", "<"),
    ):
        if bound in field:
            yield f"{exclusive_sign if field.get(exclusive) else inclusive_sign} {_number(field[bound])}"
        elif exclusive in field:
            yield f"{exclusive_sign} {_number(field[exclusive])}"


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
