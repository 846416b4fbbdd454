"""Metadata of a training's objects: labels and owner references."""

from resnext_operator.api.groupversion import GROUP, KIND, VERSION
from resnext_operator.api.objects.meta import ObjectMeta, OwnerReference
from resnext_operator.api.training import Training
from resnext_operator.rendering import names


def owned_metadata(training: Training, name: str) -> ObjectMeta:
    """Metadata of an object that is deleted with its training."""
    metadata = unowned_metadata(training, name)
    metadata["ownerReferences"] = [owner_reference(training)]
    return metadata


def unowned_metadata(training: Training, name: str) -> ObjectMeta:
    """Metadata of an object that outlives its training."""
    return {"name": name, "namespace": training.namespace, "labels": names.labels(training.name)}


def owner_reference(training: Training) -> OwnerReference:
    """Owner reference to the training. The garbage collector deletes these objects with the training."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": training.name,
        "uid": training.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
