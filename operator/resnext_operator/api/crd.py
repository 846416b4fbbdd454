"""The CustomResourceDefinition, generated from the models of spec and status: schema, rules, printer columns."""

from typing import Any, get_args

from pydantic import BaseModel

from resnext_operator.api.groupversion import GROUP, KIND, PLURAL, SHORT, VERSION
from resnext_operator.api.objects import Manifest
from resnext_operator.api.spec import Spec, Workers
from resnext_operator.api.status import Condition, Status
from resnext_operator.api.validation import IMMUTABLE, OBJECT_RULES, POD_FIELDS
from resnext_trainer.config.rules import Config, Rule

Schema = dict[str, Any]

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Workers", "string", ".status.summary.workers", 0),
    ("Epoch", "string", ".status.summary.epoch", 0),
    ("Images/s", "string", ".status.summary.imagesPerSecond", 0),
    ("Top-1", "string", ".status.summary.top1", 0),
    ("Progress", "string", ".status.summary.percent", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Loss", "string", ".status.summary.loss", 1),
    # Remaining time as text: kubectl prints a date as an age, and a date in the future as <invalid>.
    ("ETA", "string", ".status.summary.eta", 1),
    ("Checkpoint", "integer", ".status.checkpoint.step", 1),
    ("Attempt", "integer", ".status.attempts[-1:].number", 1),
    ("Reason", "string", ".status.reason", 1),
)


def manifest() -> Manifest:
    """The CustomResourceDefinition of ResNeXtTraining."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _resource()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.workers.replicas",
                            "statusReplicasPath": ".status.workers.replicas",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, **({"priority": wide} if wide else {})}
                        for name, kind, path, wide in _COLUMNS
                    ],
                }
            ],
        },
    }


def _resource() -> Schema:
    return {
        "type": "object",
        "description": "Training of a ResNeXt image classifier.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},  # used by a rule below
            "spec": _spec(),
            "status": _status(),
        },
        "x-kubernetes-validations": [_validation(rule) for rule in OBJECT_RULES],
    }


def _spec() -> Schema:
    """The spec with its transition rules, which exist only in CEL: they need the old object."""
    schema = structural(Spec)
    schema["x-kubernetes-validations"] += [
        {
            "rule": _unchanged((field,)),
            "message": f"spec.{field} is immutable; create a new training",
        }
        for field in IMMUTABLE
    ]
    schema["x-kubernetes-validations"] += [
        {
            "rule": f"(has(oldSelf.suspend) && oldSelf.suspend) || ({_unchanged(path)})",
            "message": f"spec.{'.'.join(path)} cannot change while the training runs: set spec.suspend to true first",
        }
        for path in (*((field,) for field in POD_FIELDS), *(("workers", field) for field in _worker_fields()))
    ]
    return schema


def _status() -> Schema:
    """Types and descriptions without constraints, so that any version can write a status; conditions are validated."""
    schema = Status.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    status = _without_constraints(schema, definitions)
    conditions = status["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    conditions["items"] = _inlined(definitions[Condition.__name__], definitions, {})
    return status


def _without_constraints(node: Schema, definitions: Schema) -> Schema:
    if "$ref" in node:
        node = {**definitions[node["$ref"].rsplit("/", 1)[-1]], **{key: node[key] for key in node if key != "$ref"}}
    if "anyOf" in node:
        (branch,) = (branch for branch in node["anyOf"] if branch.get("type") != "null")
        return _without_constraints({**branch, **{key: node[key] for key in node if key != "anyOf"}}, definitions)
    schema: Schema = {key: node[key] for key in ("type", "format") if key in node}
    if "description" in node:
        schema["description"] = " ".join(node["description"].split())
    if "items" in node:
        schema["items"] = _without_constraints(node["items"], definitions)
    if "properties" in node:
        schema["properties"] = {
            name: _without_constraints(child, definitions) for name, child in node["properties"].items()
        }
    return schema


def _worker_fields() -> list[str]:
    """All fields except the number of workers, which is mutable while the training runs."""
    aliases = [str(field.alias) for field in Workers.model_fields.values()]
    return [alias for alias in aliases if alias != "replicas"]


def _unchanged(path: tuple[str, ...]) -> str:
    """CEL expression: a field is unchanged, or absent before and after."""
    now, before = (".".join((it, *path)) for it in ("self", "oldSelf"))
    there, was_there = (
        " && ".join(f"has({'.'.join((it, *path[:depth]))})" for depth in range(1, len(path) + 1))
        for it in ("self", "oldSelf")
    )
    return f"{there} ? {was_there} && {now} == {before} : !({was_there})"


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model: references inlined, no defaults, no nulls, rules in CEL."""
    schema = model.model_json_schema(by_alias=True)
    return _inlined(schema, schema.get("$defs", {}), _rules(model))


def _rules(model: type[BaseModel]) -> dict[str, tuple[Rule, ...]]:
    """The rules of a model and of all models in its fields, by the model's name in the JSON schema."""
    found: dict[str, tuple[Rule, ...]] = {}

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Config):
            found[kind.__name__] = kind.rules
            for field in kind.model_fields.values():
                visit(field.annotation)
        for argument in get_args(kind):
            visit(argument)

    visit(model)
    return found


_KEPT = (
    *("type", "format", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"),
    *("pattern", "minItems", "maxItems", "minProperties", "maxProperties"),
)


def _inlined(node: Schema, definitions: Schema, rules: dict[str, tuple[Rule, ...]]) -> Schema:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        # The description of the field takes precedence over that of the model.
        return _inlined({**target, **{key: node[key] for key in ("description",) if key in node}}, definitions, rules)
    if "anyOf" in node:
        branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        described = {key: node[key] for key in ("description",) if key in node}
        if len(branches) > 1:
            return {**described, "x-kubernetes-int-or-string": True, **(_of_words(branches) or _of_either(branches))}
        return _inlined({**branches[0], **described}, definitions, rules)
    schema: Schema = {key: node[key] for key in _KEPT if key in node}
    if "description" in node:
        schema["description"] = " ".join(node["description"].split())
    if "const" in node:
        schema["enum"] = [node["const"]]
    # Structural schemas use the exclusive bounds of JSON Schema draft 4: a flag next to the bound.
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in schema:
            schema[bound], schema[exclusive] = schema[exclusive], True
    if "items" in node:
        schema["items"] = _inlined(node["items"], definitions, rules)
    if "properties" in node:
        schema["properties"] = {name: _inlined(child, definitions, rules) for name, child in node["properties"].items()}
        if required := node.get("required"):
            schema["required"] = required
        if validations := [_validation(rule) for rule in rules.get(node.get("title", ""), ())]:
            schema["x-kubernetes-validations"] = validations
    elif isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = _inlined(node["additionalProperties"], definitions, rules)
        # A structural schema cannot constrain the keys of a map.
        if most := node.get("propertyNames", {}).get("maxLength"):
            words = f"String should have at most {most} characters"
            schema["x-kubernetes-validations"] = [{"rule": f"self.all(key, size(key) <= {most})", "message": words}]
    return schema


def _of_either(branches: list[Schema]) -> Schema:
    """Constraints of int-or-string: each applies only to its own type."""
    return {key: branch[key] for branch in branches for key in _KEPT if key in branch and key != "type"}


def _of_words(branches: list[Schema]) -> Schema:
    """Rule for an integer or one of a few strings: the strings, and the bounds of the integer."""
    words = [branch["const"] for branch in branches if "const" in branch]
    bounds = [(branch["minimum"], branch["maximum"]) for branch in branches if "minimum" in branch]
    if not words:
        return {}
    listed, (least, most) = ", ".join(f"'{word}'" for word in words), bounds[0]
    return {
        "x-kubernetes-validations": [
            {
                "rule": f"type(self) == string ? self in [{listed}] : self >= {least} && self <= {most}",
                "message": f"must be an integer from {least} to {most}, or {' or '.join(words)}",
            }
        ]
    }


def _validation(rule: Rule) -> Schema:
    return {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}
