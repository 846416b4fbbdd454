"""Parses a resource of the API server into a `Training`, with errors in the format of the API server."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.spec import Spec
from resnext_operator.api.status import Status
from resnext_operator.api.training import Training
from resnext_trainer.config.models import Training as TrainingConfig
from resnext_trainer.config.rules import Config, Rule
from resnext_trainer.config.validation import InvalidConfig, explain, resolve, without_nulls

MAX_NAME_LENGTH = 40  # a pod's host name, such as NAME-worker-63-1234, has at most 63 characters


class InvalidTraining(ValueError):
    """The resource is invalid; the message names each field, the problem and the correction."""


def parse(body: Mapping[str, Any], site: OperatorPolicy) -> Training:
    """The parsed resource.

    Raises InvalidTraining with messages in the format of the API server.
    """
    metadata, found = body["metadata"], body.get("spec") or {}
    name = metadata["name"]
    _check_object("spec", found)
    _check_object("spec.training", found.get("training") or {})
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidTraining(f"metadata.name: Invalid value: {json.dumps(name)}: {_NAME_RULE.message}")
    try:
        spec = _with_run_policy(without_nulls(found, Spec, "spec"), site)
        written = spec.get("training")
        if isinstance(written, Mapping):
            spec["training"] = resolve(written).model_dump(mode="json", by_alias=True)
        parsed = Spec.model_validate_json(json.dumps(spec), by_name=False)
    except InvalidConfig as error:
        raise InvalidTraining(str(error)) from None
    except ValidationError as error:
        raise InvalidTraining(explain(error, root="spec")) from None
    return Training(spec=parsed, site=site, written=written or {}, **stored_state(body))


def stored_state(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Training that do not depend on its spec."""
    metadata, stored = body["metadata"], body.get("status") or {}
    return {
        "namespace": metadata.get("namespace", "default"),
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
        "generation": metadata.get("generation", 1),
        "deleting": "deletionTimestamp" in metadata,
        "status": Status.parse(stored),
        "stored": stored,
    }


def _with_run_policy(spec: Mapping[str, Any], site: OperatorPolicy) -> dict[str, Any]:
    """The spec with the operator's values for the fields of runPolicy that the user did not set."""
    written = spec.get("runPolicy", {})
    if not site.run_policy or not isinstance(written, Mapping):
        return dict(spec)
    return {**spec, "runPolicy": {**site.run_policy, **written}}


def _check_object(path: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidTraining(f"{path}: Invalid value: {json.dumps(value)[:100]}: should be an object")


def read_leniently(body: Mapping[str, Any], site: OperatorPolicy, invalid: str) -> Training:
    """The resource with each field of its spec that can be parsed; the others have their defaults."""
    found = body.get("spec")
    spec = _read(Spec, _with_run_policy(found, site) if isinstance(found, Mapping) else {}, training=TrainingConfig())
    return Training(spec=spec, site=site, invalid=invalid, **stored_state(body))


_Model = TypeVar("_Model", bound=Config)


def _read(model: type[_Model], written: Mapping[str, Any], **known: Any) -> _Model:
    found: dict[str, Any] = {}
    for name, described in model.model_fields.items():
        if name in known or (alias := str(described.alias)) not in written:
            continue
        value, kind = written[alias], described.annotation
        try:
            found[name] = TypeAdapter(described.rebuild_annotation()).validate_json(json.dumps(value), strict=True)
        except ValidationError:
            if isinstance(kind, type) and issubclass(kind, Config) and isinstance(value, Mapping):
                found[name] = _read(kind, value)
    return cast("_Model", model.model_construct(**found, **known))


_NAME_RULE = Rule(
    f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
    lambda it: len(it.name) <= MAX_NAME_LENGTH,
    "metadata.name",
    f"must have at most {MAX_NAME_LENGTH} characters, because it is part of the names of pods",
)

OBJECT_RULES = (_NAME_RULE,)
"""Validation rules of the whole resource."""

IMMUTABLE = ("training", "dataset", "checkpoints", "managedBy")
"""Immutable fields of spec."""

POD_FIELDS = ("image", "imagePullPolicy", "imagePullSecrets", "launcher")
"""Fields of spec, in addition to `workers`, that pods are created from. They are mutable only while the training is
suspended."""
