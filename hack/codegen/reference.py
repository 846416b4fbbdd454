"""operator/REFERENCE.md: the fields of a training's spec and status, as tables."""

from collections.abc import Iterator
from typing import Any

from resnext_operator.api import crd


def reference() -> str:
    """Every field of a training's resource, as tables."""
    version = crd.manifest()["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    sections = "\n".join(line for part in ("spec", "status") for line in _section(part, properties[part]))
    return f"<!-- Made by `make generate`; do not edit. -->\n# Fields of a ResNeXtTraining\n\n{sections}"


def _section(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's fields, then the tables of the objects in them."""
    yield f"## {path}\n"
    yield f"{schema.get('description', '')}\n"
    yield "| field | type | |\n|---|---|---|"
    for name, field in schema["properties"].items():
        # A bar would end the cell.
        said = field.get("description", "").replace("|", "\\|")
        required = " **Required.**" if name in schema.get("required", ()) else ""
        yield f"| `{name}` | {_kind(field)} | {said}{required} |"
    yield ""
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "").removeprefix(".")
        yield f"- `{field}`: {rule['message']}" if field else f"- {rule['message']}"
    if schema.get("x-kubernetes-validations"):
        yield ""
    for name, field in schema["properties"].items():
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _section(f"{path}.{name}" + ("[]" if "items" in field else ""), inner)


def _kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f"`{word}`" for word in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "items" in field:
        return f"list of {_kind(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_kind(field['additionalProperties'])}"
    bounds = [
        f"{sign} {field[bound]:g}"
        for bound, exclusive, signs in (
            ("minimum", "exclusiveMinimum", (">", "≥")),
            ("maximum", "exclusiveMaximum", ("<", "≤")),
        )
        if bound in field
        for sign in [signs[0] if field.get(exclusive) else signs[1]]
    ]
    return " ".join([str(field.get("type", "object")), ", ".join(bounds)]).strip()
