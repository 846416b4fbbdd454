"""Reconciliation of a training: what is created, deleted, recorded and reported."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext_operator.api.status import Phase
from resnext_operator.domain.attempt_outcome import EVIDENCE_GRACE
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster, condition, names_of

PERMANENT = [
    ExitStatus.INVALID_CONFIGURATION,
    ExitStatus.INVALID_DATA,
    ExitStatus.NON_FINITE_LOSS,
    ExitStatus.NO_VALID_CHECKPOINT,
]
RETRYABLE = [ExitStatus.WORLD_SIZE_MISMATCH, ExitStatus.UNREACHABLE, ExitStatus.GPU_UNAVAILABLE, ExitStatus.HUNG]


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def running(cluster):
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    return cluster


def test_launcher_created_when_all_workers_are_ready(cluster):
    """The launcher is created only after every worker is Ready."""
    cluster.settle()
    assert names_of(cluster.pods("worker")) == ["resnext-digits-worker-0-0", "resnext-digits-worker-1-0"]
    assert not cluster.pods("launcher")
    assert cluster.status["phase"] == Phase.PENDING
    cluster.ready()
    cluster.settle()
    assert names_of(cluster.pods("launcher")) == ["resnext-digits-launcher-1"]
    assert cluster.status["phase"] == Phase.STARTING


def test_progress_is_in_status_and_printed_columns(running):
    """Steps, checkpoint and percentage are reported."""
    assert running.status["progress"]["step"] == 20
    assert running.status["checkpoint"]["step"] == 20
    printed = running.status["summary"]
    assert (printed["workers"], printed["epoch"], printed["percent"]) == ("2/2", "1.0/8", "12%")


def test_unschedulable_pod_quotes_scheduler():
    """The condition Scheduled holds the scheduler's message."""
    cluster = Cluster("resnext-250ep")
    cluster.settle()
    for pod in cluster.pods("worker"):
        message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}
    cluster.settle()
    assert cluster.status["phase"] == Phase.PENDING
    assert condition(cluster, "Scheduled")["status"] == "False"
    assert "nvidia.com/gpu" in condition(cluster, "Scheduled")["message"]


def test_recently_unschedulable_pod_emits_no_event():
    """The event is emitted 5 s after the scheduler's first failure."""
    cluster = Cluster()
    cluster.settle()
    message = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    unplaced = {
        "type": "PodScheduled",
        "status": "False",
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    for pod in cluster.pods("worker"):
        pod["status"] = {"conditions": [unplaced]}
    cluster.settle()
    assert "Unschedulable" not in cluster.events
    assert cluster.requeue_seconds == 5
    cluster.wait(seconds=5)
    cluster.settle()
    assert cluster.events.count("Unschedulable") == 1


def test_missing_claim_is_named():
    """The condition Scheduled names the claim."""
    cluster = Cluster(dataset={"claimName": "nowhere"})
    cluster.settle()
    assert "PersistentVolumeClaim nowhere not found" in condition(cluster, "Scheduled")["message"]


def test_finished_run_succeeds_and_deletes_workers(running):
    """The launcher stays for its log."""
    running.end(ExitStatus.COMPLETED)
    running.settle()
    assert running.status["phase"] == Phase.SUCCEEDED
    assert condition(running, "Succeeded")["status"] == "True"
    assert not running.pods("worker")
    assert len(running.pods("launcher")) == 1, "it is kept for its log"


@pytest.mark.parametrize(("policy_of_pods", "workers", "launchers"), [("Running", 0, 1), ("All", 0, 0), ("None", 2, 1)])
def test_clean_pod_policy_decides_which_pods_stay(policy_of_pods, workers, launchers):
    """Running deletes the workers, All deletes everything, None keeps all pods."""
    cluster = Cluster(runPolicy={"cleanPodPolicy": policy_of_pods})
    cluster.run()
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    assert (len(cluster.pods("worker")), len(cluster.pods("launcher"))) == (workers, launchers)


@pytest.mark.parametrize("status", PERMANENT, ids=lambda it: it.name.lower())
def test_permanent_failure_is_not_retried(running, status):
    """Exit statuses that would repeat fail the training at once."""
    running.end(status, "shard train-00000-of-00004 is cut short")
    running.settle()
    assert running.status["phase"] == Phase.FAILED
    assert "train-00000-of-00004" in condition(running, "Failed")["message"]
    assert running.status["attempts"][-1]["exitCode"] == status.value


@pytest.mark.parametrize("status", RETRYABLE, ids=lambda it: it.name.lower())
def test_retryable_failure_is_retried_and_counted(running, status):
    """The next attempt starts after a backoff, and the failure is counted."""
    running.end(status)
    running.settle()
    assert running.status["failures"] == 1
    assert running.status["phase"] == Phase.RESTARTING
    running.wait(seconds=10)
    running.settle()
    assert [each["number"] for each in running.status["attempts"]] == [1, 2]
    assert running.status["attempts"][0]["cause"] == status.name.lower()
    assert condition(running, "Running")["status"] == "False"


def test_backoff_limit_holds_and_pauses_double():
    """Backoffs are 10, 20 and 40 s; the failure after the limit ends the training."""
    cluster = Cluster(runPolicy={"backoffLimit": 3})
    cluster.run()
    delays = []
    while cluster.status["phase"] != Phase.FAILED:
        cluster.end(ExitStatus.HUNG)
        cluster.settle()
        began = cluster.now
        while cluster.status["phase"] == Phase.RESTARTING:
            cluster.apply_plan(plan := cluster.decide())
            cluster.wait(seconds=plan.requeue_after.total_seconds() if plan.requeue_after else 0)
        delays.append((cluster.now - began).total_seconds())
        cluster.ready()
    assert delays == [10, 20, 40, 0]
    assert len(cluster.status["attempts"]) == 4
    assert condition(cluster, "Failed")["reason"] == "BackoffLimitExceeded"


@pytest.mark.parametrize("report", [True, False])
def test_crash_waits_for_evidence(running, report):
    """A crash is attributed only after the grace period for evidence."""
    running.end(ExitStatus.CRASHED, report=report)
    running.settle()
    assert running.status["phase"] == Phase.RUNNING
    assert running.decide().requeue_after == EVIDENCE_GRACE
    running.wait(seconds=91)
    running.settle()
    assert running.status["failures"] == 1


def test_crash_with_evicted_worker_is_disruption(running):
    """An eviction does not count as a failure."""
    running.end(ExitStatus.CRASHED)
    evicted = running.pods("worker")[1]
    evicted["status"] = {"phase": "Failed", "reason": "Evicted"}
    running.settle()
    assert running.status["disruptions"] == 1
    assert "failures" not in running.status


def test_late_evidence_turns_crash_into_disruption(running):
    """A node reported as lost within the grace period explains the crash."""
    running.end(ExitStatus.CRASHED)
    running.settle()
    running.wait(seconds=60)
    worker = running.pods("worker")[1]
    worker["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    worker["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    running.settle()
    assert running.status["disruptions"] == 1
    assert "failures" not in running.status


def lose_node(*pods):
    """The state of pods on a lost node, as set by the node controller; they stay in Terminating."""
    for pod in pods:
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:02:00Z"
        taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        pod["status"]["conditions"] = [taken, {"type": "Ready", "status": "False"}]


@pytest.mark.parametrize("lost", ["worker", "launcher", "both"])
def test_pods_terminating_on_lost_node_are_not_awaited(running, lost):
    """The next attempt starts while these pods still exist."""
    worker, launcher = running.pods("worker")[1], running.pods("launcher")[0]
    lose_node(*{"worker": [worker], "launcher": [launcher], "both": [worker, launcher]}[lost])
    running.settle()
    running.ready()
    running.settle()
    assert running.status["disruptions"] == 1
    assert "failures" not in running.status
    assert [each["number"] for each in running.status["attempts"]] == [1, 2]
    hanging = [pod for pod in (worker, launcher) if "deletionTimestamp" in pod["metadata"]]
    assert all(pod in running.objects.values() for pod in hanging)
    hosts = [each for each in running.pods("launcher")[-1]["spec"]["containers"][0]["args"] if "--host=" in each]
    assert ("worker-1-1" in hosts[1]) is (lost != "launcher")


def test_launcher_gets_short_grace_if_worker_lost(running):
    """Its ranks cannot save; it gets 5 s. On suspend, workers keep their own grace period."""
    lose_node(running.pods("worker")[1])
    running.apply_plan(running.decide())
    graces = {each.name: each.grace_seconds for each in running.decide().delete}
    assert graces == {"resnext-digits-launcher-1": 5}
    running.body["spec"]["suspend"] = True
    assert {each.grace_seconds for each in running.decide().delete if "worker" in each.name} == {None}


def test_drained_node_gets_time_to_save(running):
    """Pods on a node that still responds keep running until they have saved."""
    worker = running.pods("worker")[1]
    lose_node(worker)
    worker["status"]["conditions"][1]["status"] = "True"
    running.settle()
    assert running.status["phase"] == Phase.RUNNING
    assert len(running.pods("worker")) == 2


def test_launcher_on_lost_node_does_not_block_suspend(running):
    """The training is suspended although its launcher is stuck in Terminating."""
    running.body["spec"]["suspend"] = True
    running.apply_plan(running.decide())
    launcher = running.deleted_launchers.pop()
    launcher["status"] = {"phase": "Running", "conditions": []}
    running.objects[launcher["metadata"]["name"]] = launcher
    lose_node(launcher)
    running.settle()
    assert running.status["attempts"][-1]["cause"] == "stopped"
    assert not running.pods("worker")


def test_only_lost_worker_is_replaced(running):
    """The other workers keep their pods."""
    running.vanish("resnext-digits-worker-1-0")
    running.end(ExitStatus.CRASHED)
    kept = running.pods("worker")[0]["metadata"]["uid"]
    running.settle()
    running.ready()
    running.settle()
    assert running.pods("worker")[0]["metadata"]["uid"] == kept
    assert running.status["disruptions"] == 1
    assert running.status["attempts"][-1]["number"] == 2


def test_failed_worker_is_counted_and_replaced(running):
    """The replacement pod has the next number."""
    running.end_pod(running.pods("worker")[1], 137, "a rank was OOM-killed")
    running.settle()
    assert running.status["failures"] == 1
    assert "OOMKilled" in running.status["attempts"][0]["message"]
    assert names_of(running.pods("worker"))[-1] == "resnext-digits-worker-1-1"


def test_suspend_saves_and_resume_continues(running):
    """Suspending deletes all pods after the save; resuming starts attempt 2."""
    running.body["spec"]["suspend"] = True
    running.settle()
    assert running.status["phase"] == Phase.SUSPENDED
    assert not running.pods("worker")
    assert not running.pods("launcher")
    ended = running.status["attempts"][-1]
    assert (ended["cause"], ended["exitCode"]) == ("stopped", 75)
    running.body["spec"]["suspend"] = False
    running.run()
    assert running.status["phase"] == Phase.RUNNING
    assert running.status["attempts"][-1]["number"] == 2
    assert condition(running, "Suspended")["status"] == "False"


def test_launcher_is_deleted_before_workers(running):
    """Deleting the launcher makes the ranks save first."""
    running.body["spec"]["suspend"] = True
    assert [each.name for each in running.decide().delete] == ["resnext-digits-launcher-1"]


def test_created_suspended_has_no_pods():
    """A training created suspended has no pods."""
    cluster = Cluster(suspend=True)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    assert not cluster.pods("worker")


@pytest.mark.parametrize("change", [{"managedBy": "someone.else/queue"}, {}], ids=["managed elsewhere", "deleting"])
def test_unmanaged_or_deleted_training_is_not_modified(change):
    """Nothing is done for another manager's training or one with a deletionTimestamp."""
    cluster = Cluster(**change)
    if not change:
        cluster.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    plan = cluster.decide()
    assert (plan.create, plan.delete, plan.status.to_json()) == ((), (), {})


def test_last_ten_attempts_are_kept():
    """Older attempts are removed from the status."""
    cluster = Cluster()
    cluster.run()
    for _ in range(12):
        cluster.vanish(cluster.pods("launcher")[-1]["metadata"]["name"])
        cluster.wait(minutes=10)
        cluster.settle()
        cluster.ready()
    assert [each["number"] for each in cluster.status["attempts"]] == list(range(4, 14))


FAULTS = st.lists(
    st.sampled_from(["ready", "train", "vanish", "evict", "crash", "hang", "suspend", "resume", "wait", "launcher"]),
    max_size=25,
)


def apply_fault(cluster, fault):
    """Apply one fault, or do nothing if the training is in another state."""
    workers, launchers = cluster.pods("worker"), cluster.pods("launcher")
    alive = [each for each in launchers if (each.get("status") or {}).get("phase") == "Running"]
    under_way = "attempts" in cluster.status and "endTime" not in cluster.status["attempts"][-1]
    match fault:
        case "ready":
            cluster.ready()
        case "train" if alive and under_way:
            cluster.train(40)
        case "vanish" if workers:
            cluster.vanish(workers[-1]["metadata"]["name"])
        case "launcher" if launchers:
            cluster.vanish(launchers[-1]["metadata"]["name"])
        case "evict" if workers:
            workers[0]["status"] = {"phase": "Failed", "reason": "Evicted"}
        case "crash" if alive:
            cluster.end(ExitStatus.CRASHED)
        case "hang" if alive:
            cluster.end(ExitStatus.HUNG)
        case "suspend" | "resume":
            cluster.body["spec"]["suspend"] = fault == "suspend"
        case "wait":
            cluster.wait(minutes=6)


@settings(max_examples=150, deadline=None)
@given(faults=FAULTS)
def test_any_fault_sequence_converges_to_running(faults):
    """Reconciliation settles after any faults, and the training can always continue."""
    cluster = Cluster(runPolicy={"backoffLimit": 1000})
    for fault in faults:
        cluster.settle()
        apply_fault(cluster, fault)
    cluster.body["spec"]["suspend"] = False
    for _ in range(4):
        cluster.wait(minutes=6)
        cluster.settle()
        cluster.ready()
    cluster.train(60)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING
    assert len(cluster.pods("worker")) == 2
    numbers = [each["number"] for each in cluster.status["attempts"]]
    assert numbers == sorted(set(numbers))
    assert all("endTime" in each for each in cluster.status["attempts"][:-1])


@settings(max_examples=100, deadline=None)
@given(faults=FAULTS)
def test_plan_deletes_launcher_only_after_end_recorded(faults):
    """A finished launcher is evidence until the status records the end of its attempt."""
    cluster = Cluster(runPolicy={"backoffLimit": 1000, "cleanPodPolicy": "All"})
    for fault in faults:
        cluster.settle()
        apply_fault(cluster, fault)
        plan = cluster.decide()
        recorded = {each["number"] for each in cluster.status.get("attempts", ()) if "endTime" in each}
        for each in cluster.seen.launchers:
            if each.finished and each.uid in {reference.uid for reference in plan.delete}:
                assert each.attempt in recorded


def test_unrecorded_launcher_is_adopted(cluster):
    """A launcher created just before a restart of the operator is recorded as usual."""
    cluster.settle()
    cluster.ready()
    before = copy.deepcopy(cluster.status)
    cluster.settle()
    recorded = copy.deepcopy(cluster.status)
    assert names_of(cluster.pods("launcher")) == ["resnext-digits-launcher-1"]
    cluster.body["status"] = before  # the operator exited after creating the launcher and before writing the status
    cluster.settle()
    assert names_of(cluster.pods("launcher")) == ["resnext-digits-launcher-1"]
    assert cluster.status == recorded


def test_launcher_missed_while_down_had_ready_workers(cluster):
    """If the launcher started and ended unobserved, all workers had been ready."""
    cluster.settle()
    cluster.ready()
    slow = cluster.pods("worker")[1]
    slow["status"]["conditions"][0]["status"] = "False"
    cluster.settle()
    before = copy.deepcopy(cluster.status)
    assert condition(cluster, "WorkersReady")["message"] == "1 of 2 workers are ready"
    slow["status"]["conditions"][0]["status"] = "True"
    cluster.settle()
    cluster.ready()
    cluster.end(ExitStatus.COMPLETED)
    cluster.body["status"] = before  # the operator was down the whole time
    cluster.settle()
    assert cluster.status["phase"] == "Succeeded"
    assert condition(cluster, "WorkersReady")["message"] == "0 of 2 workers are ready", "they were deleted"
    assert condition(cluster, "Running")["reason"] == "Completed"


def test_config_differences_are_in_status_and_one_event(running):
    """The differences stay in the status; one event reports them."""
    differences = ("seed: was 0, is 4", "dataset.train: was 64 records in 1 part, is 65 records in 1 part")
    for step in (40, 60):
        running.wait(seconds=10)
        running.train(step, saved=step)
        saved = running.progress.checkpoint.model_copy(update={"differences": differences})
        running.progress = running.progress.model_copy(update={"checkpoint": saved})
        running.settle()
        assert running.status["checkpoint"]["differences"] == list(differences)
    assert running.events.count("RecipeChanged") == 1


def test_run_without_differences_has_no_field(running):
    """The field is unset if the list is empty."""
    assert "differences" not in running.status["checkpoint"]
