"""The fields of a training's spec, with defaults, and of its status."""

import json
import re
from collections.abc import Iterable, Iterator
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
        + "\n".join(_Sections(with_defaults=True).of("spec", _schema("spec"), Spec))
    )


def status() -> str:
    """Every field of the status: type and description."""
    return (
        "# Status of a ResNeXtTraining\n\n"
        "The operator writes the status, or the controller in `spec.managedBy`. Do not edit it; with\n"
        "`admissionPolicy.enabled`, the API server rejects changes by others. Programs should read the conditions;\n"
        "`phase` and `reason` summarize them.\n\n"
        + "\n".join(_Sections(with_defaults=False).of("status", _schema("status"), None))
    )


def _schema(part: str) -> dict[str, Any]:
    version = crd.manifest()["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return found


class _Sections:
    """The tables of an object and of the objects in it. An object that occurs again refers to its first table."""

    def __init__(self, *, with_defaults: bool) -> None:
        self._with_defaults = with_defaults
        self._paths: dict[str, str] = {}
        """The section of each object's schema."""

    def of(self, path: str, schema: dict[str, Any], model: Model | None) -> Iterator[str]:
        """path: the path of the object, such as `spec.workers`. model: the model that declares its fields, if any."""
        yield f"## {path}\n"
        yield f"{schema.get('description', '')}\n"
        fields, required = _model_fields(model), schema.get("required", ())
        rows, nested = [], []
        for name, field in _properties(schema):
            default = "required" if name in required else _default(fields.get(name))
            inner = field.get("items", field)
            place = f"{path}.{name}" + ("[]" if "items" in field else "")
            reference = ""
            if "properties" in inner:
                first = self._paths.setdefault(json.dumps(inner["properties"], sort_keys=True), place)
                if first == place:
                    nested.append((place, inner, _model_in(fields[name].annotation) if name in fields else None))
                else:
                    reference = f" See [{first}](#{_anchor(first)})."
            cells = [f"`{name}`", kind(field), default, field.get("description", "") + reference]
            rows.append(cells if self._with_defaults else [*cells[:2], cells[3]])
        columns = ("Field", "Type", "Default", "Description")
        yield from table(columns if self._with_defaults else (*columns[:2], columns[3]), rows)
        yield from _rules(schema.get("x-kubernetes-validations", ()))
        for place, inner, its_model in nested:
            yield from self.of(place, inner, its_model)


def _anchor(heading: str) -> str:
    """The anchor that MkDocs derives from a heading."""
    return re.sub(r"[^\w-]", "", heading).lower()


def _rules(validations: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A list of the rules; rules with the same message for several fields form one item."""
    fields: dict[str, list[str]] = {}
    for rule in validations:
        subject, _, text = rule["message"].partition(" ")
        if field := rule.get("fieldPath", "").removeprefix("."):
            subject, text = field, f": {rule['message']}"
        elif subject.startswith("spec."):
            text = f" {text}"
        else:
            subject, text = "", rule["message"]
        fields.setdefault(text, []).append(subject)
    for text, subjects in fields.items():
        names = ", ".join(f"`{subject}`" for subject in subjects if subject)
        yield f"- {'Each of ' if len(subjects) > 1 else ''}{names}{text}"
    if fields:
        yield ""


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
