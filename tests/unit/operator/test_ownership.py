"""Whom an object belongs to that has a child's name: the same rule for every kind, and what follows for claims."""

import asyncio

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.rendering.claims import checkpoint_claim
from resnext_operator.runtime import client as server
from resnext_operator.runtime import ownership
from resnext_operator.runtime.client import ApiError, NameConflict, NameStillHeld
from resnext_operator.runtime.ownership import Owner
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster

KINDS = ("Pod", "ConfigMap", "Secret", "NetworkPolicy", "PersistentVolumeClaim")
CLAIM = "resnext-digits-checkpoints"
LABELS = {"app.kubernetes.io/managed-by": "resnext-operator", "resnext.dev/training": "resnext-digits"}


def an_object(kind="PersistentVolumeClaim", labels=None, uid="", owner_kind="ResNeXtTraining", owner="resnext-digits"):
    version = "resnext.dev/v1alpha1" if owner_kind == "ResNeXtTraining" else "apps/v1"
    reference = {"apiVersion": version, "kind": owner_kind, "name": owner, "uid": uid, "controller": True}
    return {
        "kind": kind,
        "metadata": {"name": CLAIM, "labels": labels or {}, **({"ownerReferences": [reference]} if uid else {})},
        "spec": {"accessModes": ["ReadWriteOnce"]},
    }


def owner_of(found):
    return ownership.owner_of(found, "resnext-digits", "training-uid")


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


@pytest.mark.parametrize("kind", KINDS)
def test_owner_reference_decides_for_every_kind(kind):
    """By the uid, for a later training of the same name is another one."""
    assert owner_of(an_object(kind, uid="training-uid")) is Owner.TRAINING
    assert owner_of(an_object(kind, uid="earlier-uid")) is Owner.EARLIER
    assert owner_of(an_object(kind, uid="x", owner="another")) is Owner.ANOTHER
    assert owner_of(an_object(kind, uid="x", owner_kind="StatefulSet")) is Owner.ANOTHER
    assert owner_of(an_object(kind)) is Owner.ANOTHER


@pytest.mark.parametrize("kind", KINDS)
def test_labels_decide_for_claims_alone(kind):
    """A claim for checkpoints outlives its training, and so it has no owner reference."""
    expected = Owner.TRAINING if kind == "PersistentVolumeClaim" else Owner.ANOTHER
    assert owner_of(an_object(kind, LABELS)) is expected


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
    """Whatever else it is called."""
    assert owner_of(an_object(labels=labels)) is Owner.ANOTHER


def test_claim_of_a_stateful_set_is_foreign():
    """Although somebody has put our labels on it."""
    assert owner_of(an_object(labels=LABELS, uid="x", owner_kind="StatefulSet")) is Owner.ANOTHER


def test_foreign_claim_is_neither_mounted_nor_written():
    """The message names the field that would use it."""
    cluster = Cluster()
    cluster.claim(CLAIM, "ReadWriteOnce")
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    accepted = condition(cluster, "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "ClaimNotOwned")
    for words in (f"claim {CLAIM} exists already", f"set checkpoints.claimName to {CLAIM}"):
        assert words in accepted["message"]
    assert not cluster.pods("worker")
    assert cluster.events == ["ClaimNotOwned"]


def test_foreign_claim_can_be_named():
    """Naming it is the user's consent."""
    cluster = Cluster(checkpoints={"claimName": CLAIM})
    cluster.claim(CLAIM, "ReadWriteOnce")
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_own_claim_of_an_earlier_training_is_used_again():
    """Deleting a training keeps its checkpoints; the next one of the name goes on from them."""
    cluster = Cluster()
    claim = checkpoint_claim(cluster.training)
    assert "ownerReferences" not in claim["metadata"]
    cluster._store(claim)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_claim_that_appears_foreign_ends_no_attempt():
    """An operator before this rule has mounted it; the attempt goes on, and no other begins."""
    cluster = Cluster()
    cluster.run()
    cluster.objects[f"PersistentVolumeClaim/{CLAIM}"]["metadata"]["labels"] = {}
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING
    cluster.end(ExitStatus.HUNG)
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "ClaimNotOwned"


class Taken(server.KubeClient):
    """An API server on which each name is taken."""

    def __init__(self, found):
        self.found = found

    async def request(self, verb, *_, **__):
        if verb == "POST":
            raise ApiError(409, "already exists")
        return self.found


@pytest.mark.parametrize("kind", KINDS)
def test_taken_name_is_judged_by_the_same_rule(kind):
    """At the creation of a child, for what the cache does not show: Secrets, and what has just been created."""
    training = Cluster().training
    manifest = {"kind": kind, "metadata": {"name": CLAIM}}

    def create(found):
        # The API server does not repeat the kind in each answer.
        return asyncio.run(
            Taken({key: value for key, value in found.items() if key != "kind"}).create(manifest, training)
        )

    assert create(an_object(kind, uid="training-uid"))
    with pytest.raises(NameStillHeld):
        create(an_object(kind, uid="earlier-uid"))
    with pytest.raises(NameConflict, match=CLAIM):
        create(an_object(kind, uid="x", owner="another"))
