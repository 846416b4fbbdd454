"""Metadata of a training's objects: labels and owner references."""

from resnext_operator.api.groupversion import GROUP, KIND, VERSION
from resnext_operator.api.objects import Manifest
from resnext_operator.api.training import Training
from resnext_operator.rendering import names


def owned_object(training: Training, api_version: str, kind: str, name: str, content: Manifest) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": training.namespace,
            "labels": names.labels(training.name),
            "ownerReferences": [owner_reference(training)],
        },
        **content,
    }


def owner_reference(training: Training) -> Manifest:
    """The garbage collector deletes the objects that a deleted training owned."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": training.name,
        "uid": training.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
