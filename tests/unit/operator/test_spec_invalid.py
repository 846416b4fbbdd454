"""A stored spec that an earlier version accepted, and this one does not: what runs with it goes on."""

import copy

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.api.validation import read_leniently
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster

OLD = {
    "unknown field": {"workers": {"replicas": 2, "serviceAccountName": "admin"}},
    "rule": {"workers": {"replicas": 2, "env": [{"name": "RESNEXT_X"}]}},
    "bound": {"workers": {"replicas": 2, "terminationGracePeriodSeconds": 100_000}},
    "training": {"training": {"epochs": -1}},
    "run policy": {"runPolicy": {"backoffLimit": 10**9, "activeDeadlineSeconds": 100}},
    "type": {"workers": "many"},
}


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


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
def test_running_training_keeps_its_pods(what):
    """With a condition and one event that name the field."""
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
    assert cluster.status["checkpoint"]["step"] == 60, "it is observed"
    assert cluster.status["workers"] == {"replicas": 2, "ready": 2}


@pytest.mark.parametrize("what", OLD)
def test_its_end_is_recorded(what):
    """Success is success."""
    cluster = upgraded(what)
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUCCEEDED
    assert not cluster.pods("worker")


@pytest.mark.parametrize("what", ["rule", "type"])
def test_failed_attempt_keeps_the_workers_that_are_left(what):
    """Nothing new can be created from such a spec; only a training without pods fails."""
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


def test_pods_that_are_starting_are_kept():
    """The upgrade came before its launcher."""
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


def test_without_pods_it_fails():
    """Also one that an API server without our rules let pass."""
    cluster = Cluster(workers={"serviceAccountName": "admin"})
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "SpecInvalid"
    assert "spec.workers.serviceAccountName" in condition(cluster, "Failed")["message"]
    assert not cluster.made or not cluster.pods("worker")


def test_it_can_be_suspended_and_resumed_corrected():
    """Pods save and go, as for any other."""
    cluster = upgraded("rule")
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    assert cluster.status["attempts"][-1]["exitCode"] == 75
    assert not cluster.pods("worker")
    cluster.body["spec"] |= {"suspend": False, "workers": {"replicas": 2}}
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_its_deadline_holds():
    """What can be read of the spec counts, field by field."""
    cluster = upgraded("run policy")
    cluster.wait(seconds=100)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "DeadlineExceeded"


def test_ended_training_stays_as_it_ended():
    """And nothing is reported about it any more."""
    cluster = Cluster()
    cluster.run()
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    told = list(cluster.events)
    status = copy.deepcopy(cluster.status)
    cluster.body["spec"]["workers"]["serviceAccountName"] = "admin"
    cluster.settle()
    assert (cluster.status, cluster.events) == (status, told)


def test_what_can_be_read_is_read_field_by_field():
    """A wrong field costs no other one."""
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
def test_spec_of_any_form_is_no_error_of_the_operator(spec):
    """Nothing of it can be read then."""
    cluster = Cluster()
    cluster.body["spec"] = spec
    read = read_leniently(cluster.body, cluster.site, "no")
    assert (read.invalid, read.spec.workers.replicas) == ("no", 1)
