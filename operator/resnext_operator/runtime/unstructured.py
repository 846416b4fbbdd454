"""Reading objects of the cluster as they come, as JSON of which nothing is certain."""

from typing import Any

from resnext_operator.api.groupversion import CONTROLLER_NAME, GROUP, KIND
from resnext_operator.api.objects import Manifest, TrainingKey


def dictionary(value: Any) -> Manifest:
    """An object of JSON; an empty one instead of anything else."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Manifest]:
    """The objects in a list of JSON; nothing instead of anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def word(fields: Manifest, field: str) -> str:
    """A field that holds text; empty if it is not there or holds something else."""
    value = fields.get(field)
    return value if isinstance(value, str) else ""


def key_of(found: Manifest) -> TrainingKey:
    """Namespace and name."""
    metadata: Manifest = found["metadata"]
    return metadata["namespace"], metadata["name"]


def namespace_and_name(found: Any) -> tuple[str, str]:
    """For the log, of an object that may have neither."""
    metadata = dictionary(dictionary(found).get("metadata"))
    return word(metadata, "namespace"), word(metadata, "name")


def managed_by(training: Manifest) -> Any:
    """Who looks after a training."""
    return dictionary(training.get("spec")).get("managedBy") or CONTROLLER_NAME


def owners(child: Manifest) -> list[Manifest]:
    """The trainings that own a child, as owner references."""
    references = items(dictionary(child.get("metadata")).get("ownerReferences"))
    return [
        each for each in references if each.get("kind") == KIND and word(each, "apiVersion").startswith(f"{GROUP}/")
    ]


def owned_by(child: Manifest, uid: str) -> bool:
    """Whether a training, by its uid, owns a child."""
    return any(owner.get("uid") == uid for owner in owners(child))


def training_of(child: Manifest) -> TrainingKey | None:
    """The training that owns a child, whatever its labels say."""
    name = next((word(owner, "name") for owner in owners(child)), "")
    return (child["metadata"]["namespace"], name) if name else None
