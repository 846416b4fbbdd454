"""Reading objects of the cluster as they come, as JSON of which nothing is certain."""

from typing import TypeVar, cast

from resnext_operator.api.groupversion import CONTROLLER_NAME, GROUP, KIND
from resnext_operator.api.objects import Manifest, TrainingKey
from resnext_operator.runtime.cached_objects import (
    JSON,
    AnyObject,
    CachedMetadata,
    CachedOwnerReference,
    TrainingSpec,
)

_Fields = TypeVar("_Fields")


def dictionary(value: JSON) -> Manifest:
    """An object of JSON; an empty one instead of anything else."""
    return value if isinstance(value, dict) else {}


def fields(_shape: type[_Fields], value: JSON) -> _Fields:
    """An object of JSON, of which these fields are read; an empty one instead of anything else."""
    return cast("_Fields", value if isinstance(value, dict) else {})


def items(_shape: type[_Fields], value: JSON) -> list[_Fields]:
    """The objects in a list of JSON, of which these fields are read; nothing instead of anything else."""
    found = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return cast("list[_Fields]", found)


def word(value: JSON) -> str:
    """Text; empty instead of anything else."""
    return value if isinstance(value, str) else ""


def key_of(found: AnyObject) -> TrainingKey:
    """Namespace and name."""
    metadata: CachedMetadata = found["metadata"]
    return metadata["namespace"], metadata["name"]


def namespace_and_name(found: object) -> tuple[str, str]:
    """For the log, of an object that may have neither."""
    metadata = dictionary(found.get("metadata")) if isinstance(found, dict) else {}
    return word(metadata.get("namespace")), word(metadata.get("name"))


def managed_by(training: AnyObject) -> JSON:
    """Who looks after a training."""
    return fields(TrainingSpec, training.get("spec")).get("managedBy") or CONTROLLER_NAME


def owners(child: AnyObject) -> list[CachedOwnerReference]:
    """The trainings that own a child, as owner references."""
    references = items(CachedOwnerReference, fields(CachedMetadata, child.get("metadata")).get("ownerReferences"))
    return [
        each
        for each in references
        if word(each.get("kind")) == KIND and word(each.get("apiVersion")).startswith(f"{GROUP}/")
    ]


def owned_by(child: AnyObject, uid: str) -> bool:
    """Whether a training, by its uid, owns a child."""
    return any(word(owner.get("uid")) == uid for owner in owners(child))


def training_of(child: AnyObject) -> TrainingKey | None:
    """The training that owns a child, whatever its labels say."""
    name = next((word(owner.get("name")) for owner in owners(child)), "")
    if not name:
        return None
    metadata: CachedMetadata = child["metadata"]
    return metadata["namespace"], name
