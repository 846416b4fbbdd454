"""Workers that end before an attempt: counted once per set, with backoff, limit and reason in the status."""

import copy
from datetime import timedelta

import pytest

from resnext_operator.api.status import Phase
from resnext_operator.api.timestamps import to_rfc3339
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster, condition

LOG = "exec /usr/local/bin/resnext-train: exec format error"


def fail(pod, code=255, reason="Error", message=LOG):
    """Report a terminated container with the last lines of its log, as a kubelet does."""
    ended = {"exitCode": code, "reason": reason, "message": message}
    phase = "Succeeded" if code == 0 else "Failed"
    pod["spec"]["nodeName"] = "node-a"
    pod["status"] = {"phase": phase, "containerStatuses": [{"state": {"terminated": ended}}]}


def new_workers(cluster):
    return [pod for pod in cluster.pods("worker") if not pod.get("status")]


def failing_cluster(failing=2, **spec):
    """A training of two workers, of which some failed to start."""
    cluster = Cluster(**spec)
    cluster.settle()
    for pod in cluster.pods("worker")[:failing]:
        fail(pod)
    cluster.settle()
    return cluster


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_start_counts_once_per_set(failing):
    """The status and the condition hold the reason and the last log lines."""
    cluster = failing_cluster(failing)
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
    """The second worker of a set adds nothing, during the backoff and afterwards."""
    cluster = failing_cluster(1)
    cluster.wait(seconds=3)
    fail(cluster.pods("worker")[1])
    cluster.settle()
    assert cluster.status["failures"] == 1
    cluster.wait(seconds=7)
    cluster.settle()
    assert len(new_workers(cluster)) == 2


def test_late_failure_of_replaced_set_counts_once():
    """A slow worker fails after the first one was replaced."""
    cluster = failing_cluster(1)
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


def test_start_backoff_doubles_until_limit_fails():
    """Backoffs range from 10 s to 5 minutes; backoffLimit applies as for attempts."""
    cluster = failing_cluster(runPolicy={"backoffLimit": 6})
    delays = []
    while cluster.status["phase"] != Phase.FAILED:
        began = cluster.now
        while not new_workers(cluster):
            wait = cluster.decide().requeue_after
            assert wait, "a requeue is planned"
            cluster.wait(seconds=wait.total_seconds())
            cluster.settle()
        delays.append((cluster.now - began).total_seconds())
        for pod in new_workers(cluster):
            fail(pod)
        cluster.settle()
    assert delays == [10, 20, 40, 80, 160, 300]
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
def test_any_worker_exit_before_attempt_is_counted(code, reason, message):
    """Exit code 0 counts as well, because sshd must keep running."""
    cluster = Cluster()
    cluster.settle()
    fail(cluster.pods("worker")[1], code, reason, message)
    cluster.settle()
    assert cluster.status["failures"] == 1
    (start,) = cluster.status["failedStarts"]
    assert start["reason"] == reason
    assert start["log"] == (message.splitlines() or [f"ended with exit code {code}"])
    assert not new_workers(cluster) or len(new_workers(cluster)) == 1


def test_pod_rejected_by_kubelet_is_counted():
    """It has no container; the reason and message are in the pod's status."""
    cluster = Cluster()
    cluster.settle()
    message = "Pod was rejected: Allocate failed due to requested number of devices unavailable"
    cluster.pods("worker")[0]["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": message}
    cluster.settle()
    (start,) = cluster.status["failedStarts"]
    assert (start["reason"], start["log"]) == ("UnexpectedAdmissionError", [message])


@pytest.mark.parametrize("how", ["evicted", "preempted", "lost node", "deleted", "drained"])
def test_disruption_before_attempt_is_not_counted(how):
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
    """The failure is counted once, regardless of which write was the last one before the restart."""
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
def test_failed_pod_follows_clean_pod_policy(clean, kept):
    """The failed pod stays for its log until an attempt starts; the rest of the set is deleted."""
    cluster = failing_cluster(runPolicy={"cleanPodPolicy": clean})
    assert len(cluster.pods("worker")) == kept
    cluster.wait(seconds=10)
    cluster.settle()
    assert len(new_workers(cluster)) == 2
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert len(cluster.pods("worker")) == 2
    assert "failedStarts" not in cluster.status
    assert cluster.status["failures"] == 1


def test_failed_pods_kept_when_limit_is_reached():
    """One pod for each failed start is kept."""
    cluster = failing_cluster(runPolicy={"backoffLimit": 1})
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


def test_worker_of_ended_attempt_is_not_failed_start():
    """The worker exits right after its launcher, and the attempt has been counted."""
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
    assert cluster.status["failures"] == 2, "its replacement is another start"


def test_attempt_after_failed_start_ignores_failed_pod():
    """The kept pod is not a worker of the attempt."""
    cluster = failing_cluster(1)
    cluster.wait(seconds=10)
    cluster.run()
    cluster.vanish(next(pod["metadata"]["name"] for pod in cluster.pods("worker") if "0-1" in pod["metadata"]["name"]))
    cluster.settle()
    assert cluster.status["attempts"][0]["cause"] == "disrupted"
    assert cluster.status["failures"] == 1


def test_resume_after_correction_does_not_pause():
    """The image was corrected while the training was suspended."""
    cluster = failing_cluster()
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    cluster.body["spec"] |= {"suspend": False, "image": "registry.example/resnext-trainer:2"}
    cluster.wait(seconds=1)
    cluster.settle()
    assert len(new_workers(cluster)) == 2


def test_pending_deadline_quotes_failed_start():
    """The message names the failed start, not scheduling."""
    cluster = failing_cluster(runPolicy={"pendingDeadlineSeconds": 5})
    cluster.wait(seconds=5)
    cluster.settle()
    failed = condition(cluster, "Failed")
    assert failed["reason"] == "PendingDeadlineExceeded"
    assert LOG in failed["message"]


def test_long_termination_message_is_truncated():
    """Any writer of a pod's status could put a megabyte there."""
    cluster = Cluster()
    cluster.settle()
    fail(cluster.pods("worker")[0], message="\n".join(["x" * 100_000] * 1000), reason="y" * 100_000)
    cluster.settle()
    assert len(str(cluster.status["failedStarts"])) < 10_000
    assert len(condition(cluster, "WorkersReady")["message"]) < 2000


def test_other_workers_are_kept_during_backoff():
    """Only the failed worker is replaced."""
    cluster = failing_cluster(1)
    kept = cluster.pods("worker")[1]["metadata"]["uid"]
    cluster.wait(seconds=10)
    cluster.settle()
    assert kept in {pod["metadata"]["uid"] for pod in cluster.pods("worker")}
    assert cluster.decide().requeue_after is None or cluster.decide().requeue_after > timedelta(0)
