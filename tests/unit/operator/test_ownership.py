"""Ownership of objects that have the name of a child: one rule for every kind."""

import asyncio
from typing import Any

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.rendering.claims import checkpoint_claim
from resnext_operator.runtime import ownership
from resnext_operator.runtime.children import NameConflict, NameStillHeld, create_child
from resnext_operator.runtime.client import ApiError, KubeClient
from resnext_operator.runtime.ownership import Owner
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster, condition

KINDS = ("Pod", "ConfigMap", "Secret", "NetworkPolicy", "PersistentVolumeClaim")
CLAIM = "resnext-digits-checkpoints"
LABELS = {"app.kubernetes.io/managed-by": "resnext-operator", "resnext.dev/training": "resnext-digits"}


def make_object(
    kind="PersistentVolumeClaim", labels=None, uid="", owner_kind="ResNeXtTraining", owner="resnext-digits"
):
    version = "resnext.dev/v1alpha2" if owner_kind == "ResNeXtTraining" else "apps/v1"
    reference = {"apiVersion": version, "kind": owner_kind, "name": owner, "uid": uid, "controller": True}
    return {
        "kind": kind,
        "metadata": {"name": CLAIM, "labels": labels or {}, **({"ownerReferences": [reference]} if uid else {})},
        "spec": {"accessModes": ["ReadWriteOnce"]},
    }


def owner_of(found):
    return ownership.owner_of(found, "resnext-digits", "training-uid")


@pytest.mark.parametrize("kind", KINDS)
def test_owner_reference_decides_for_every_kind(kind):
    """The uid is compared, since a later training may have the same name."""
    assert owner_of(make_object(kind, uid="training-uid")) is Owner.TRAINING
    assert owner_of(make_object(kind, uid="earlier-uid")) is Owner.EARLIER
    assert owner_of(make_object(kind, uid="x", owner="another")) is Owner.ANOTHER
    assert owner_of(make_object(kind, uid="x", owner_kind="StatefulSet")) is Owner.ANOTHER
    assert owner_of(make_object(kind)) is Owner.ANOTHER


@pytest.mark.parametrize("kind", KINDS)
def test_labels_decide_for_claims_only(kind):
    """A checkpoint claim outlives its training and therefore has no owner reference."""
    expected = Owner.TRAINING if kind == "PersistentVolumeClaim" else Owner.ANOTHER
    assert owner_of(make_object(kind, LABELS)) is expected


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"resnext.dev/training": "resnext-digits"},
        {"app.kubernetes.io/managed-by": "resnext-operator"},
        {**LABELS, "resnext.dev/training": "another"},
        {**LABELS, "app.kubernetes.io/managed-by": "Helm"},
    ],
    ids=str,
)
def test_claim_without_both_labels_is_foreign(labels):
    """Both managed-by and training labels are required."""
    assert owner_of(make_object(labels=labels)) is Owner.ANOTHER


def test_claim_of_stateful_set_is_foreign():
    """An owner reference of another controller overrides the labels."""
    assert owner_of(make_object(labels=LABELS, uid="x", owner_kind="StatefulSet")) is Owner.ANOTHER


def test_foreign_claim_is_neither_mounted_nor_written():
    """The message names the field that would use it."""
    cluster = Cluster()
    cluster.claim(CLAIM, "ReadWriteOnce")
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    accepted = condition(cluster, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "ClaimNotOwned")
    for words in (f"claim {CLAIM} already exists", f"set checkpoints.claimName to {CLAIM}"):
        assert words in accepted["message"]
    assert not cluster.pods("worker")
    assert cluster.events == ["ClaimNotOwned"]


def test_foreign_claim_named_in_spec_is_used():
    """Naming a claim in the spec is the user's consent."""
    cluster = Cluster(checkpoints={"claimName": CLAIM})
    cluster.claim(CLAIM, "ReadWriteOnce")
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_own_claim_of_earlier_training_is_reused():
    """Deleting a training keeps its checkpoints; the next training of that name resumes from them."""
    cluster = Cluster()
    claim = checkpoint_claim(cluster.training)
    assert "ownerReferences" not in claim["metadata"]
    cluster._store(dict(claim))
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_claim_becoming_foreign_keeps_current_attempt():
    """The current attempt continues, and no other one starts."""
    cluster = Cluster()
    cluster.run()
    cluster.objects[f"PersistentVolumeClaim/{CLAIM}"]["metadata"]["labels"] = {}
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING
    cluster.end(ExitStatus.HUNG)
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "ClaimNotOwned"


class ConflictingServer(KubeClient):
    """A fake API server on which every name exists."""

    def __init__(self, found):
        self.found = found

    async def request(self, verb, *_, **__):
        if verb == "POST":
            raise ApiError(409, "already exists")
        return self.found


@pytest.mark.parametrize("kind", KINDS)
def test_create_conflict_is_judged_by_owner(kind):
    """If a name exists, the owner of the existing object decides, even for kinds that are not cached."""
    training = Cluster().training
    manifest: Any = {"kind": kind, "metadata": {"name": CLAIM}}

    def create(found):
        # The API server does not return the kind in every response.
        server = ConflictingServer({key: value for key, value in found.items() if key != "kind"})
        return asyncio.run(create_child(server, manifest, training))

    assert create(make_object(kind, uid="training-uid"))
    with pytest.raises(NameStillHeld):
        create(make_object(kind, uid="earlier-uid"))
    with pytest.raises(NameConflict, match=CLAIM):
        create(make_object(kind, uid="x", owner="another"))
