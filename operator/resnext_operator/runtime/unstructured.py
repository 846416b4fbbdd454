"""Helpers that read unstructured objects, whose fields may be missing or of any type."""

from typing import TypeVar, cast

from resnext_operator.api.groupversion import CONTROLLER_NAME, GROUP, KIND
from resnext_operator.api.objects import Manifest, TrainingKey
from resnext_operator.api.status import Phase
from resnext_operator.runtime.cached_objects import (
    JSON,
    AnyObject,
    CachedMetadata,
    CachedOwnerReference,
    TrainingSpec,
)

_Fields = TypeVar("_Fields")


def dictionary(value: JSON) -> Manifest:
    """The value if it is a JSON object; otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def fields(_shape: type[_Fields], value: JSON) -> _Fields:
    """The value as this type if it is a JSON object; otherwise an empty one."""
    return cast("_Fields", value if isinstance(value, dict) else {})


def items(_shape: type[_Fields], value: JSON) -> list[_Fields]:
    """The JSON objects in a list as this type; empty if the value is not a list."""
    found = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return cast("list[_Fields]", found)


def word(value: JSON) -> str:
    """The value if it is a string; otherwise an empty one."""
    return value if isinstance(value, str) else ""


def key_of(found: AnyObject) -> TrainingKey:
    """Namespace and name."""
    metadata: CachedMetadata = found["metadata"]
    return metadata["namespace"], metadata["name"]


def namespace_and_name(found: object) -> tuple[str, str]:
    """Namespace and name for log messages; empty where an object has none."""
    metadata = dictionary(found.get("metadata")) if isinstance(found, dict) else {}
    return word(metadata.get("namespace")), word(metadata.get("name"))


def managed_by(training: AnyObject) -> JSON:
    """The controller that manages a training."""
    return fields(TrainingSpec, training.get("spec")).get("managedBy") or CONTROLLER_NAME


def has_ended(training: AnyObject) -> bool:
    """Whether the status says that a training succeeded or failed."""
    return word(dictionary(training.get("status")).get("phase")) in (Phase.SUCCEEDED, Phase.FAILED)


def owners(child: AnyObject) -> list[CachedOwnerReference]:
    """The trainings that own a child, as owner references."""
    references = items(CachedOwnerReference, fields(CachedMetadata, child.get("metadata")).get("ownerReferences"))
    return [
        each
        for each in references
        if word(each.get("kind")) == KIND and word(each.get("apiVersion")).startswith(f"{GROUP}/")
    ]


def owned_by(child: AnyObject, uid: str) -> bool:
    """Whether the training with this uid owns a child object."""
    return any(word(owner.get("uid")) == uid for owner in owners(child))


def training_of(child: AnyObject) -> TrainingKey | None:
    """The training that owns a child object, by its owner reference."""
    name = next((word(owner.get("name")) for owner in owners(child)), "")
    if not name:
        return None
    metadata: CachedMetadata = child["metadata"]
    return metadata["namespace"], name
