"""Ownership of objects that have the name of a training's child object."""

from collections.abc import Iterable
from enum import Enum

from resnext_operator.rendering import names
from resnext_operator.runtime.cached_objects import AnyObject, CachedObject
from resnext_operator.runtime.unstructured import dictionary, owned_by, owners, word

_CLAIM = "PersistentVolumeClaim"


class Owner(Enum):
    """The owner of an object."""

    TRAINING = "this training"
    EARLIER = "an earlier training of the same name"
    ANOTHER = "another"


def owner_of(found: AnyObject, name: str, uid: str) -> Owner:
    """The owner of an object, relative to the training with this name and uid.

    A checkpoint claim outlives its training and has no owner reference. The operator recognizes it by the two labels
    that it sets on creation, and by the absence of owner references. Only users who may write claims in the namespace
    can set these labels; such a claim is meant for this training.
    """
    if owned_by(found, uid):
        return Owner.TRAINING
    if any(word(owner.get("name")) == name for owner in owners(found)):
        return Owner.EARLIER
    if found["kind"] == _CLAIM and not found["metadata"].get("ownerReferences") and _created_for(found, name):
        return Owner.TRAINING
    return Owner.ANOTHER


def foreign_claims(children: Iterable[CachedObject], name: str, uid: str) -> frozenset[str]:
    """Names of the claims among these objects that the operator did not create for this training."""
    claims = (child for child in children if child["kind"] == _CLAIM)
    return frozenset(claim["metadata"]["name"] for claim in claims if owner_of(claim, name, uid) is not Owner.TRAINING)


def _created_for(claim: AnyObject, name: str) -> bool:
    labels = dictionary(claim["metadata"].get("labels"))
    return labels.get(names.MANAGED_BY) == names.OPERATOR and labels.get(names.TRAINING) == name
