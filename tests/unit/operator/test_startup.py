"""Workers that end before an attempt: counted once for a set, with a pause, a limit and the reason in the status."""

import copy
from datetime import timedelta

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.domain.timestamps import to_rfc3339
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster

LOG = "exec /usr/local/bin/resnext-train: exec format error"


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


def fail(pod, code=255, reason="Error", message=LOG):
    """As a kubelet reports a container that ended, with the last lines of its log."""
    ended = {"exitCode": code, "reason": reason, "message": message}
    phase = "Succeeded" if code == 0 else "Failed"
    pod["spec"]["nodeName"] = "node-a"
    pod["status"] = {"phase": phase, "containerStatuses": [{"state": {"terminated": ended}}]}


def new_workers(cluster):
    return [pod for pod in cluster.pods("worker") if not pod.get("status")]


def a_failing(failing=2, **spec):
    """A training of two workers, some of which have ended at once."""
    cluster = Cluster(**spec)
    cluster.settle()
    for pod in cluster.pods("worker")[:failing]:
        fail(pod)
    cluster.settle()
    return cluster


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_start_counts_once_per_set(failing):
    """However many workers fail, and with the reason and the last lines in status and condition."""
    cluster = a_failing(failing)
    assert cluster.status["failures"] == 1
    (start,) = cluster.status["failedStarts"]
    assert (start["pod"], start["node"], start["reason"]) == ("resnext-digits-worker-0-0", "node-a", "Error")
    assert (start["exitCode"], start["log"]) == (255, [LOG])
    ready = condition(cluster, "WorkersReady")
    assert (ready["status"], ready["reason"]) == ("False", "WorkerStartFailed")
    assert LOG in ready["message"]
    assert cluster.events.count("WorkerStartFailed") == 1
    assert cluster.status["phase"] == Phase.RESTARTING


def test_workers_failing_one_by_one_count_once():
    """The second worker of the same set adds nothing, during the pause and after it."""
    cluster = a_failing(1)
    cluster.wait(seconds=3)
    fail(cluster.pods("worker")[1])
    cluster.settle()
    assert cluster.status["failures"] == 1
    cluster.wait(seconds=7)
    cluster.settle()
    assert len(new_workers(cluster)) == 2


def test_slow_worker_of_failed_set_counts_once():
    """It pulls its image while the first one is already replaced."""
    cluster = a_failing(1)
    slow = cluster.pods("worker")[1]
    cluster.wait(seconds=20)
    cluster.settle()
    assert len(new_workers(cluster)) == 2
    fail(slow)
    cluster.settle()
    assert cluster.status["failures"] == 1
    for pod in new_workers(cluster):
        fail(pod)
    cluster.settle()
    assert cluster.status["failures"] == 2


def test_pause_doubles_to_five_minutes_and_limit_fails():
    """Ten seconds to five minutes, and backoffLimit as for attempts."""
    cluster = a_failing(runPolicy={"backoffLimit": 6})
    pauses = []
    while cluster.status["phase"] != Phase.FAILED:
        began = cluster.now
        while not new_workers(cluster):
            wait = cluster.decide().requeue_after
            assert wait, "the operator must look again by itself"
            cluster.wait(seconds=wait.total_seconds())
            cluster.settle()
        pauses.append((cluster.now - began).total_seconds())
        for pod in new_workers(cluster):
            fail(pod)
        cluster.settle()
    assert pauses == [10, 20, 40, 80, 160, 300]
    assert cluster.status["failures"] == 7
    failed = condition(cluster, "Failed")
    assert failed["reason"] == "BackoffLimitExceeded"
    assert LOG in failed["message"]
    assert cluster.events.count("WorkerStartFailed") == 6, "each failure is an event"


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (255, "Error", LOG),
        (137, "OOMKilled", ""),
        (128, "StartError", 'exec: "resnext-train": executable file not found in $PATH'),
        (0, "Completed", ""),
        (1, "Error", "Traceback\nModuleNotFoundError: resnext_trainer"),
    ],
    ids=["architecture", "memory", "volume over /usr", "ends without error", "wrong image"],
)
def test_every_end_before_an_attempt_is_counted(code, reason, message):
    """Also one with exit code 0: sshd must go on running."""
    cluster = Cluster()
    cluster.settle()
    fail(cluster.pods("worker")[1], code, reason, message)
    cluster.settle()
    assert cluster.status["failures"] == 1
    (start,) = cluster.status["failedStarts"]
    assert start["reason"] == reason
    assert start["log"] == (message.splitlines() or [f"ended with exit code {code}"])
    assert not new_workers(cluster) or len(new_workers(cluster)) == 1


def test_pod_rejected_by_its_kubelet_is_counted():
    """It has no container; the kubelet's reason and message are in the pod's status."""
    cluster = Cluster()
    cluster.settle()
    said = "Pod was rejected: Allocate failed due to requested number of devices unavailable"
    cluster.pods("worker")[0]["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": said}
    cluster.settle()
    (start,) = cluster.status["failedStarts"]
    assert (start["reason"], start["log"]) == ("UnexpectedAdmissionError", [said])


@pytest.mark.parametrize("how", ["evicted", "preempted", "lost node", "deleted", "drained"])
def test_disruption_before_an_attempt_does_not_count(how):
    """The worker is replaced at once."""
    cluster = Cluster()
    cluster.settle()
    pod = cluster.pods("worker")[1]
    if how == "deleted":
        cluster.vanish(pod["metadata"]["name"])
    else:
        fail(pod, 137)
        if how == "evicted":
            pod["status"]["reason"] = "Evicted"
        elif how == "drained":
            pod["metadata"]["deletionTimestamp"] = to_rfc3339(cluster.now)
        else:
            pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    cluster.settle()
    assert "failures" not in cluster.status
    assert "failedStarts" not in cluster.status
    assert len(new_workers(cluster)) == 2


@pytest.mark.parametrize("written", [True, False], ids=["before the pods are deleted", "before the status is written"])
def test_operator_restart_does_not_count_twice(written):
    """Whichever write was the last one before the operator ended."""
    cluster = Cluster(runPolicy={"cleanPodPolicy": "All"})
    cluster.settle()
    for pod in cluster.pods("worker"):
        fail(pod)
    before = copy.deepcopy(cluster.status)
    plan = cluster.decide()
    assert not plan.delete, "evidence is deleted only when it is recorded"
    assert not plan.create
    cluster.apply_plan(plan)
    if not written:
        cluster.body["status"] = before
    cluster.settle()
    assert cluster.status["failures"] == 1


@pytest.mark.parametrize(("clean", "kept"), [("Running", 1), ("None", 1), ("All", 0)])
def test_failed_pod_stays_as_clean_pod_policy_says(clean, kept):
    """For its log, until an attempt begins; the other pods of the set that failed are deleted."""
    cluster = a_failing(runPolicy={"cleanPodPolicy": clean})
    assert len(cluster.pods("worker")) == kept
    cluster.wait(seconds=10)
    cluster.settle()
    assert len(new_workers(cluster)) == 2
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert len(cluster.pods("worker")) == 2
    assert "failedStarts" not in cluster.status
    assert cluster.status["failures"] == 1


def test_failed_pods_are_there_when_the_limit_is_reached():
    """One for each start that failed."""
    cluster = a_failing(runPolicy={"backoffLimit": 1})
    cluster.wait(seconds=10)
    cluster.settle()
    for pod in new_workers(cluster):
        fail(pod)
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert {pod["metadata"]["name"] for pod in cluster.pods("worker")} >= {
        "resnext-digits-worker-0-0",
        "resnext-digits-worker-0-1",
    }


def test_worker_of_an_ended_attempt_is_no_failed_start():
    """It ends right after its launcher: the attempt has counted already."""
    cluster = Cluster()
    cluster.run()
    cluster.wait(minutes=5)
    cluster.end(ExitStatus.HUNG)
    cluster.settle()
    fail(cluster.pods("worker")[1], 1)
    cluster.settle()
    assert cluster.status["failures"] == 1
    assert "failedStarts" not in cluster.status
    cluster.wait(seconds=20)
    cluster.settle()
    fail(new_workers(cluster)[0])
    cluster.settle()
    assert cluster.status["failures"] == 2, "its successor is a start of its own"


def test_attempts_after_a_failed_start_judge_their_own_pods():
    """The failed pod that was kept for its log is not taken for a worker of the attempt."""
    cluster = a_failing(1)
    cluster.wait(seconds=10)
    cluster.run()
    cluster.vanish(next(pod["metadata"]["name"] for pod in cluster.pods("worker") if "0-1" in pod["metadata"]["name"]))
    cluster.settle()
    assert cluster.status["attempts"][0]["cause"] == "disruption"
    assert cluster.status["failures"] == 1


def test_resume_after_a_correction_does_not_pause():
    """The image was corrected while the training was suspended."""
    cluster = a_failing()
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    cluster.body["spec"] |= {"suspend": False, "image": "registry.example/resnext-trainer:2"}
    cluster.wait(seconds=1)
    cluster.settle()
    assert len(new_workers(cluster)) == 2


def test_failed_start_is_counted_within_the_pending_deadline():
    """The deadline names the failed start, not a missing place."""
    cluster = a_failing(runPolicy={"pendingDeadlineSeconds": 5})
    cluster.wait(seconds=5)
    cluster.settle()
    failed = condition(cluster, "Failed")
    assert failed["reason"] == "PendingDeadlineExceeded"
    assert LOG in failed["message"]


def test_endless_log_is_cut():
    """Anyone who may write a pod's status can put a megabyte there."""
    cluster = Cluster()
    cluster.settle()
    fail(cluster.pods("worker")[0], message="\n".join(["x" * 100_000] * 1000), reason="y" * 100_000)
    cluster.settle()
    assert len(str(cluster.status["failedStarts"])) < 10_000
    assert len(condition(cluster, "WorkersReady")["message"]) < 2000


def test_other_workers_are_kept_during_the_pause():
    """Only the lost worker is replaced."""
    cluster = a_failing(1)
    kept = cluster.pods("worker")[1]["metadata"]["uid"]
    cluster.wait(seconds=10)
    cluster.settle()
    assert kept in {pod["metadata"]["uid"] for pod in cluster.pods("worker")}
    assert cluster.decide().requeue_after is None or cluster.decide().requeue_after > timedelta(0)
