"""A stored spec that this version rejects: a running training continues."""

import copy

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.api.validation import read_leniently
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster, condition

OLD = {
    "unknown field": {"workers": {"replicas": 2, "serviceAccountName": "admin"}},
    "rule": {"workers": {"replicas": 2, "env": [{"name": "RESNEXT_X"}]}},
    "bound": {"workers": {"replicas": 2, "terminationGracePeriodSeconds": 100_000}},
    "training": {"training": {"epochs": -1}},
    "run policy": {"runPolicy": {"backoffLimit": 10**9, "activeDeadlineSeconds": 100}},
    "type": {"workers": "many"},
}


def upgraded(what, before=lambda cluster: cluster.run()):
    """A training whose operator is replaced by one that does not accept its spec."""
    cluster = Cluster()
    before(cluster)
    cluster.body["spec"] |= copy.deepcopy(OLD[what])
    cluster.settle()
    return cluster


def uids(cluster):
    pods = [*cluster.pods("worker"), *cluster.pods("launcher")]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


@pytest.mark.parametrize("what", OLD)
def test_invalid_spec_keeps_running_pods(what):
    """A condition and one event name the field."""
    cluster = Cluster()
    cluster.run()
    pods = uids(cluster)
    cluster.body["spec"] |= copy.deepcopy(OLD[what])
    cluster.settle()
    assert uids(cluster) == pods
    assert cluster.status["phase"] == Phase.RUNNING
    invalid = condition(cluster, "SpecInvalid")
    assert (invalid["status"], invalid["reason"]) == ("True", "SpecInvalid")
    assert "spec." in invalid["message"]
    assert cluster.events.count("SpecInvalid") == 1
    cluster.wait(seconds=10)
    cluster.train(60, 60)
    cluster.settle()
    assert cluster.status["checkpoint"]["step"] == 60, "progress is still recorded"
    assert cluster.status["workers"] == {"replicas": 2, "ready": 2}


@pytest.mark.parametrize("what", OLD)
def test_invalid_spec_end_is_recorded(what):
    """The training succeeds if its run finishes."""
    cluster = upgraded(what)
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUCCEEDED
    assert not cluster.pods("worker")


@pytest.mark.parametrize("what", ["rule", "type"])
def test_invalid_spec_after_failure_keeps_workers(what):
    """No pod is created; the training fails when none is left."""
    cluster = upgraded(what)
    made = list(cluster.made)
    cluster.end(ExitStatus.HUNG)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RESTARTING
    assert len(cluster.pods("worker")) == 2
    for pod in cluster.pods("worker"):
        cluster.vanish(pod["metadata"]["name"])
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "SpecInvalid"
    assert cluster.made == made


def test_invalid_spec_keeps_starting_pods():
    """Pods are kept even if the operator is upgraded before the launcher is created."""
    cluster = Cluster()
    cluster.settle()
    pods = uids(cluster)
    cluster.body["spec"]["workers"]["serviceAccountName"] = "admin"
    cluster.ready()
    cluster.settle()
    assert uids(cluster) == pods
    assert cluster.status["phase"] != Phase.FAILED
    del cluster.body["spec"]["workers"]["serviceAccountName"]
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert condition(cluster, "SpecInvalid")["status"] == "False"


def test_invalid_spec_without_pods_fails():
    """The training fails even if the API server accepted it without the rules."""
    cluster = Cluster(workers={"serviceAccountName": "admin"})
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "SpecInvalid"
    assert "spec.workers.serviceAccountName" in condition(cluster, "Failed")["message"]
    assert not cluster.made or not cluster.pods("worker")


def test_invalid_spec_can_be_suspended_and_corrected():
    """Suspending saves and deletes the pods; the corrected training resumes."""
    cluster = upgraded("rule")
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    assert cluster.status["attempts"][-1]["exitCode"] == 75
    assert not cluster.pods("worker")
    cluster.body["spec"] |= {"suspend": False, "workers": {"replicas": 2}}
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_invalid_spec_deadline_holds():
    """Fields that can be parsed apply."""
    cluster = upgraded("run policy")
    cluster.wait(seconds=100)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "DeadlineExceeded"


def test_invalid_spec_of_ended_training_changes_nothing():
    """The status stays, and no event is emitted."""
    cluster = Cluster()
    cluster.run()
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    events = list(cluster.events)
    status = copy.deepcopy(cluster.status)
    cluster.body["spec"]["workers"]["serviceAccountName"] = "admin"
    cluster.settle()
    assert (cluster.status, cluster.events) == (status, events)


def test_lenient_parsing_keeps_valid_fields():
    """An invalid field does not discard another one."""
    cluster = Cluster()
    cluster.body["spec"] |= {
        "suspend": "yes",
        "workers": {"replicas": 3, "slots": 0, "sharedMemory": []},
        "runPolicy": {"cleanPodPolicy": "All", "backoffLimit": "many"},
    }
    spec = read_leniently(cluster.body, cluster.site, "no").spec
    assert (spec.suspend, spec.workers.replicas, spec.workers.slots) == (False, 3, None)
    assert (spec.run_policy.clean_pod_policy, spec.run_policy.backoff_limit) == ("All", 6)


@pytest.mark.parametrize("spec", [None, [], "x", 1, {"workers": None}, {"training": None, "runPolicy": {"x": {}}}])
def test_lenient_parsing_of_any_type_uses_defaults(spec):
    """A spec of the wrong type causes no exception."""
    cluster = Cluster()
    cluster.body["spec"] = spec
    read = read_leniently(cluster.body, cluster.site, "no")
    assert (read.invalid, read.spec.workers.replicas) == ("no", 1)
