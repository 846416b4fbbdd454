"""Rules for deadlines, failure attribution, resizing, stalls and child objects, each by itself."""

import copy

import pytest

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.pod_template import GPU
from resnext_operator.api.status import Phase
from resnext_operator.api.validation import parse
from resnext_operator.rendering import names
from resnext_operator.rendering.hashing import pod_revision
from resnext_operator.rendering.pods import launcher_pod
from resnext_trainer.contract import ExitStatus, TerminationReport
from tests.support.fake_cluster import HOSTS, SITE, Cluster, condition, resource

START = "2026-01-01T00:00:00Z"


def running_cluster(**spec):
    cluster = Cluster(**spec)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    return cluster


def run_next_attempt(cluster, times=4):
    """Advance the cluster until the next attempt is running."""
    for _ in range(times):
        cluster.wait(minutes=6)
        cluster.settle()
        cluster.ready()
    cluster.train(40, 40)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_deadline_stops_launcher_then_fails_training():
    """The launcher is deleted first, so that the ranks save a checkpoint."""
    cluster = running_cluster(runPolicy={"activeDeadlineSeconds": 100})
    cluster.wait(seconds=99)
    cluster.settle()
    assert cluster.requeue_seconds == 1
    cluster.wait(seconds=1)
    plan = cluster.decide()
    assert [each.name for each in plan.delete] == ["resnext-digits-launcher-1"], "the launcher first: the ranks save"
    cluster.apply_plan(plan)
    assert cluster.status["phase"] == Phase.STOPPING
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED
    assert condition(cluster, "Failed")["reason"] == "DeadlineExceeded"
    assert "activeDeadlineSeconds" in condition(cluster, "Failed")["message"]
    assert cluster.status["attempts"][-1]["cause"] == "stopped"


def test_training_finished_at_deadline_succeeds():
    """A launcher that finishes while it is stopped for the deadline counts as success."""
    cluster = running_cluster(runPolicy={"activeDeadlineSeconds": 100})
    cluster.wait(seconds=100)
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUCCEEDED


def test_active_deadline_restarts_on_resume():
    """Time spent suspended does not count, and resuming starts a new period."""
    cluster = running_cluster(runPolicy={"activeDeadlineSeconds": 100})
    cluster.wait(seconds=90)
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    cluster.wait(days=1)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    cluster.body["spec"]["suspend"] = False
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    cluster.wait(seconds=99)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING
    cluster.wait(seconds=1)
    cluster.settle()
    assert cluster.status["phase"] == Phase.FAILED


def test_start_time_unset_until_first_resume():
    """A training created suspended has no startTime."""
    cluster = Cluster(suspend=True)
    cluster.settle()
    assert "startTime" not in cluster.status
    cluster.wait(days=1)
    cluster.body["spec"]["suspend"] = False
    cluster.settle()
    assert cluster.status["startTime"] == "2026-01-02T00:00:00Z"


def test_pending_deadline_fails_with_scheduler_message():
    """The condition Failed quotes the scheduler."""
    cluster = Cluster("resnext-250ep", runPolicy={"pendingDeadlineSeconds": 60})
    cluster.settle()
    for pod in cluster.pods("worker"):
        message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}
    cluster.wait(seconds=59)
    cluster.settle()
    assert cluster.status["phase"] == Phase.PENDING
    cluster.wait(seconds=1)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "PendingDeadlineExceeded"
    assert "Insufficient nvidia.com/gpu" in condition(cluster, "Failed")["message"]
    assert not cluster.pods("worker")


def test_pending_deadline_counts_from_loss_of_pods():
    """After an attempt, the deadline counts from the loss of the pods, not from startTime."""
    cluster = running_cluster(runPolicy={"pendingDeadlineSeconds": 60})
    cluster.wait(hours=5)
    cluster.vanish("resnext-digits-worker-1-0")
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RESTARTING
    cluster.wait(seconds=60)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "PendingDeadlineExceeded"


def test_pending_deadline_applies_to_launcher():
    """A launcher whose image cannot be pulled fails the training after the deadline."""
    cluster = Cluster(runPolicy={"pendingDeadlineSeconds": 60})
    cluster.settle()
    cluster.ready()
    cluster.settle()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    cluster.pods("launcher")[0]["status"] = {"phase": "Pending", "containerStatuses": [{"state": waiting}]}
    cluster.settle()
    cluster.wait(seconds=60)
    cluster.settle()
    assert "no such image" in condition(cluster, "Failed")["message"]


@pytest.mark.parametrize("role", ["worker", "launcher"])
def test_container_error_event_names_volume_mount(role):
    """The event of a container that cannot be created does not suggest checking the image."""
    cluster = Cluster()
    cluster.settle()
    if role == "launcher":
        cluster.ready()
        cluster.settle()
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": "failed to prepare subPath"}}
    cluster.pods(role)[0]["status"] = {"phase": "Pending", "containerStatuses": [{"state": waiting}]}
    events = [event.message for event in cluster.decide().events]
    assert any("failed to prepare subPath → correct the volume mount" in message for message in events)


@pytest.mark.parametrize("status", [ExitStatus.COMPLETED, ExitStatus.INVALID_DATA], ids=lambda it: it.name.lower())
def test_ttl_deletes_resource_after_end(status):
    """The operator deletes the resource ttlSecondsAfterFinished after completion."""
    cluster = running_cluster(runPolicy={"ttlSecondsAfterFinished": 3600})
    cluster.end(status)
    cluster.settle()
    assert not cluster.deleted
    assert cluster.requeue_seconds == 3600
    cluster.wait(seconds=3600)
    (reference,) = cluster.decide().delete
    assert (reference.kind, reference.name, reference.uid) == (KIND, "resnext-digits", "training-uid")


def test_finished_training_recreates_nothing():
    """Deleted children of a finished training are not created again."""
    cluster = running_cluster()
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    made = list(cluster.made)
    for key in [key for key, each in cluster.objects.items() if each["metadata"]["name"] != "digits-data"]:
        del cluster.objects[key]
    cluster.wait(days=1)
    cluster.settle()
    assert cluster.made == made
    assert not cluster.updated


# -- failure attribution -----------------------------------------------------------------------------------------------


def test_attempt_records_failed_pod_and_checkpoint_step():
    """The attempt records pod, node, exit code and the last checkpoint."""
    cluster = running_cluster()
    cluster.end_pod(cluster.pods("worker")[1], 139, "segmentation fault")
    cluster.settle()
    attempt = cluster.status["attempts"][0]
    expected = {"pod": "resnext-digits-worker-1-0", "node": "node-1", "exitCode": 139, "checkpointStep": 20}
    assert {key: attempt[key] for key in expected} == expected
    assert "checkpointStepBefore" not in attempt, "the first attempt has no checkpoint"
    run_next_attempt(cluster)
    assert cluster.status["attempts"][1]["checkpointStepBefore"] == 20


@pytest.mark.parametrize("limit", ["16Gi", None])
@pytest.mark.parametrize("by_kubelet", [True, False], ids=["cgroup v2", "cgroup v1"])
def test_out_of_memory_message_names_worker_and_limit(limit, by_kubelet):
    """The message names the pod and its memory limit."""
    limits = {"limits": {"memory": limit}} if limit else {}
    cluster = running_cluster(workers={"replicas": 2, "resources": limits})
    worker = cluster.pods("worker")[1]
    cluster.end_pod(worker, 137, "" if by_kubelet else "a rank was killed for memory: raise it")
    if by_kubelet:
        worker["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    cluster.settle()
    attempt = cluster.status["attempts"][0]
    assert attempt["cause"] == "out_of_memory"
    assert "resnext-digits-worker-1-0" in attempt["message"]
    assert (f"at its memory limit of {limit}" if limit else "no memory limit is set") in attempt["message"]
    assert cluster.status["failures"] == 1


@pytest.mark.parametrize("rank", [2, 3])
def test_report_with_rank_attributes_failure_to_its_pod(rank):
    """The rank in the launcher's report determines the failed pod."""
    cluster = running_cluster(workers={"replicas": 2, "slots": 2})
    report = TerminationReport(verdict="hung", message="no step", rank=rank, log=("step 19", "step 20"))
    cluster.end_pod(cluster.pods("launcher")[0], ExitStatus.HUNG.value, report.model_dump_json(by_alias=True))
    cluster.settle()
    attempt = cluster.status["attempts"][0]
    assert (attempt["pod"], attempt["rank"], attempt["log"]) == (
        "resnext-digits-worker-1-0",
        rank,
        ["step 19", "step 20"],
    )


def test_report_with_pod_name_attributes_failure_to_it():
    """A message about worker 10 is not attributed to worker 1."""
    cluster = running_cluster(workers={"replicas": 11})
    cluster.end(
        ExitStatus.UNREACHABLE, "worker resnext-digits-worker-10-0.resnext-digits could not be reached over ssh"
    )
    cluster.settle()
    assert cluster.status["attempts"][0]["pod"] == "resnext-digits-worker-10-0"


def fail_worker(cluster, index, times):
    for _ in range(times):
        alive = [pod for pod in cluster.pods("worker") if pod["metadata"]["labels"][names.WORKER] == str(index)]
        cluster.end_pod(alive[-1], 132, "illegal instruction")
        cluster.settle()
        run_next_attempt(cluster)


@pytest.mark.parametrize(("after", "avoided"), [(2, True), (0, False), (3, False)])
def test_node_avoided_after_repeated_failures(after, avoided):
    """After avoidNodesAfter failures, replacements prefer other nodes; healthy workers stay."""
    cluster = running_cluster(runPolicy={"avoidNodesAfter": after})
    fail_worker(cluster, 1, 1)
    assert "affinity" not in cluster.pods("worker")[1]["spec"]
    healthy = cluster.pods("worker")[0]["metadata"]["uid"]
    fail_worker(cluster, 1, 1)
    assert ("node-1" in str(cluster.pods("worker")[1]["spec"].get("affinity"))) is avoided
    assert cluster.pods("worker")[0]["metadata"]["uid"] == healthy, "healthy workers keep running"


def end_attempt_with_rank(cluster, status, rank=1):
    """End the attempt with a launcher report that names a rank; all pods keep running."""
    report = TerminationReport(verdict=status.name.lower(), message="because", rank=rank)
    cluster.end_pod(cluster.pods("launcher")[-1], status.value, report.model_dump_json(by_alias=True))
    cluster.settle()
    return {pod["metadata"]["name"]: str(pod["spec"].get("affinity")) for pod in cluster.pods("worker")}


@pytest.mark.parametrize(
    "status", [ExitStatus.GPU_UNAVAILABLE, ExitStatus.HUNG, ExitStatus.UNREACHABLE], ids=lambda it: it.name.lower()
)
def test_failed_worker_that_still_runs_is_replaced(status):
    """Only the worker that the report names is replaced."""
    cluster = running_cluster()
    kept = cluster.pods("worker")[0]["metadata"]["uid"]
    pods = end_attempt_with_rank(cluster, status)
    assert list(pods) == ["resnext-digits-worker-0-0", "resnext-digits-worker-1-1"]
    assert cluster.pods("worker")[0]["metadata"]["uid"] == kept
    assert ("node-1" in pods["resnext-digits-worker-1-1"]) is (status is ExitStatus.GPU_UNAVAILABLE), (
        "retried on another node"
    )
    run_next_attempt(cluster)
    assert cluster.status["failures"] == 1


def test_rank_crashing_twice_on_node_moves_to_other_node():
    """The worker is replaced, and its successor prefers another node."""
    cluster = running_cluster()
    assert list(end_attempt_with_rank(cluster, ExitStatus.CRASHED)) == [
        "resnext-digits-worker-0-0",
        "resnext-digits-worker-1-0",
    ]
    cluster.wait(seconds=5)
    cluster.settle()
    run_next_attempt(cluster)
    end_attempt_with_rank(cluster, ExitStatus.CRASHED)
    cluster.wait(seconds=5)
    cluster.settle()
    pods = {pod["metadata"]["name"]: str(pod["spec"].get("affinity")) for pod in cluster.pods("worker")}
    assert "node-1" in pods["resnext-digits-worker-1-1"]
    run_next_attempt(cluster)


def test_out_of_memory_does_not_avoid_node():
    """A memory limit is not a fault of the node."""
    cluster = running_cluster()
    for _ in range(3):
        cluster.end_pod(cluster.pods("worker")[-1], 137, "a rank was OOM-killed")
        cluster.settle()
        run_next_attempt(cluster)
    assert "affinity" not in cluster.pods("worker")[1]["spec"]


def test_conclusive_evidence_shortens_grace_period():
    """If all kubelets respond, a crash is attributed after 5 s."""
    cluster = Cluster()
    cluster.settle()
    cluster.ready()
    cluster.settle()
    cluster.ready()
    for pod in (*cluster.pods("worker"), *cluster.pods("launcher")):
        pod["spec"]["nodeName"] = "the-only-node"  # its kubelet reported the end, so the node is alive
    cluster.train(20, 20)
    cluster.settle()
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    assert cluster.requeue_seconds == 5, "until its kubelet reports the other pods"
    cluster.wait(seconds=5)
    cluster.settle()
    assert cluster.status["failures"] == 1


def moved_worker_0(*modes, silent=True):
    """Worker 0 is scheduled again while its previous pod is stuck in Terminating on a lost node."""
    cluster = Cluster(checkpoints={"claimName": "kept"})
    cluster.claim("kept", *modes)
    cluster.run()
    old = cluster.pods("worker")[0]
    old["metadata"]["deletionTimestamp"] = START
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    old["status"]["conditions"] = [taken, {"type": "Ready", "status": "False" if silent else "True"}]
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    new = next(pod for pod in cluster.pods("worker") if pod["metadata"]["name"] == "resnext-digits-worker-0-1")
    new["spec"]["nodeName"], new["status"] = "node-2", {"phase": "Pending"}
    cluster.settle()
    return cluster


def test_worker_waiting_for_volume_names_holding_node():
    """The condition names the pod and the node that still holds the ReadWriteOnce volume."""
    cluster = moved_worker_0("ReadWriteOnce")
    ready = condition(cluster, "WorkersReady")
    assert (ready["status"], ready["reason"]) == ("False", "VolumeStillAttached")
    for word in ("resnext-digits-worker-0-1", "node node-0", "resnext-digits-worker-0-0", "out-of-service"):
        assert word in ready["message"]
    assert cluster.events.count("VolumeStillAttached") == 1
    assert "failures" not in cluster.status
    del cluster.objects["resnext-digits-worker-0-1"]["status"]  # the volume is attached
    run_next_attempt(cluster)
    assert condition(cluster, "WorkersReady")["status"] == "True"


def test_shared_or_detaching_volume_is_not_reported():
    """A ReadWriteMany volume, or a node that responds, needs no message."""
    for cluster in (moved_worker_0("ReadWriteMany"), moved_worker_0("ReadWriteOnce", silent=False)):
        assert condition(cluster, "WorkersReady")["reason"] == "WorkersNotReady"


# -- resizing, and changes while suspended -----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 4])
def test_resize_saves_and_resumes_with_new_replicas(replicas):
    """The launcher stops, the ranks save, and the next attempt has the new number of workers."""
    cluster = running_cluster()
    kept = cluster.pods("worker")[0]["metadata"]["uid"]
    cluster.body["spec"]["workers"]["replicas"] = replicas
    plan = cluster.decide()
    assert names_of_references(plan.delete) == ["resnext-digits-launcher-1"]
    assert not plan.create
    cluster.settle()
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert cluster.status["workers"] == {"replicas": replicas, "ready": replicas}
    assert [pod["metadata"]["labels"][names.WORKER] for pod in cluster.pods("worker")] == [
        str(index) for index in range(replicas)
    ]
    assert cluster.pods("worker")[0]["metadata"]["uid"] == kept
    first, second = cluster.status["attempts"]
    assert (first["cause"], first["workers"], second["workers"]) == ("stopped", 2, replicas)
    assert f"--world-size={replicas}" in cluster.pods("launcher")[-1]["spec"]["containers"][0]["args"]
    assert "failures" not in cluster.status


def names_of_references(references):
    return [each.name for each in references]


def test_reverted_resize_resumes_training():
    """A resize that is reverted while the launcher stops leads to a new attempt."""
    cluster = running_cluster()
    cluster.body["spec"]["workers"]["replicas"] = 4
    cluster.apply_plan(cluster.decide())
    cluster.body["spec"]["workers"]["replicas"] = 2
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert cluster.status["workers"]["replicas"] == 2


CHANGES: dict[str, dict[str, object] | list[dict[str, str]]] = {
    "nodeSelector": {"pool": "b"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "labels": {"team": "vision"},
    "resources": {"limits": {"memory": "2Gi"}},
}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("seen_suspended", [True, False], ids=["slowly", "before the operator looks"])
def test_pod_template_change_while_suspended_applies(field, seen_suspended):
    """All workers are recreated from the changed template on resume."""
    cluster = running_cluster()
    old = {pod["metadata"]["uid"] for pod in cluster.pods("worker")}
    if seen_suspended:
        cluster.body["spec"]["suspend"] = True
        cluster.settle()
    cluster.body["spec"]["suspend"] = False
    cluster.body["spec"]["workers"][field] = CHANGES[field]
    cluster.settle()
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    pods = cluster.pods("worker")
    assert len(pods) == 2
    assert not old & {pod["metadata"]["uid"] for pod in pods}
    changed = CHANGES[field]
    for pod in pods:
        found = {**pod["spec"], **pod["spec"]["containers"][0], **pod["metadata"]}[field]
        if isinstance(changed, list):
            assert changed[0].items() <= found[0].items()
        else:
            assert changed.items() <= found.items()
    assert "failures" not in cluster.status


def test_upgrade_and_resize_keep_pod_revision():
    """Neither a new operator version nor a resize replaces existing pods."""
    cluster = running_cluster()
    other = parse(copy.deepcopy(cluster.body), OperatorPolicy("another/default-image:2"))
    assert pod_revision(other) == pod_revision(cluster.training)
    for replicas in (1, 3):
        resized = parse(resource(workers={"replicas": replicas}), SITE)
        assert pod_revision(resized) == pod_revision(parse(resource(workers={}), SITE))


# -- stalls ------------------------------------------------------------------------------------------------------------


def steady_cluster(**run_policy):
    """A training with a step time of one second, known from twenty polls."""
    cluster = running_cluster(runPolicy={"stallTimeoutMultiple": 200, "stallDeadlineSeconds": 300, **run_policy})
    for step in range(21, 40):
        cluster.wait(seconds=1)
        cluster.train(step, 20)
        cluster.settle()
    return cluster


def test_stall_is_reported_with_step_of_each_rank():
    """The condition Stalled lists the last step of each rank; one event is emitted."""
    cluster = steady_cluster()
    cluster.wait(seconds=199)
    cluster.settle()
    assert condition(cluster, "Stalled") == {}
    cluster.last_steps = {0: 39, 1: 38, 2: None}
    cluster.wait(seconds=1)
    cluster.settle()
    stalled = condition(cluster, "Stalled")
    assert stalled["status"] == "True"
    assert "rank 2 does not respond, rank 0 at 39, rank 1 at 38" in stalled["message"]
    assert cluster.events.count("Stalled") == 1
    cluster.wait(seconds=100)
    cluster.settle()
    assert condition(cluster, "Stalled") == stalled, "one event"


def test_stall_ends_with_next_step():
    """The next step sets Stalled to False."""
    cluster = steady_cluster()
    cluster.wait(seconds=250)
    cluster.settle()
    cluster.train(41, 20)
    cluster.settle()
    assert condition(cluster, "Stalled")["status"] == "False"
    assert cluster.status["phase"] == Phase.RUNNING


def test_stall_past_deadline_ends_attempt_as_hung():
    """After stallDeadlineSeconds the attempt ends as hung and counts as a failure."""
    cluster = steady_cluster()
    cluster.wait(seconds=200)
    cluster.settle()
    cluster.wait(seconds=300)
    assert names_of_references(cluster.decide().delete) == ["resnext-digits-launcher-1"]
    cluster.settle()
    assert cluster.status["attempts"][0]["cause"] == "hung"
    assert "no step completed for 200 s" in cluster.status["attempts"][0]["message"]
    assert cluster.status["failures"] == 1
    assert condition(cluster, "Stalled")["status"] == "False"
    run_next_attempt(cluster)


def test_stall_timeout_is_at_least_one_minute():
    """Fast steps do not shorten the timeout below 60 s."""
    cluster = steady_cluster(stallTimeoutMultiple=2)
    cluster.wait(seconds=59)
    cluster.settle()
    assert condition(cluster, "Stalled") == {}
    cluster.wait(seconds=1)
    cluster.settle()
    assert condition(cluster, "Stalled")["status"] == "True"


def test_stall_not_reported_after_operator_downtime():
    """Time without progress polls does not count as a stall."""
    cluster = steady_cluster()
    cluster.progress = None
    cluster.wait(hours=1)
    cluster.settle()
    assert condition(cluster, "Stalled") == {}


# -- datasets and child objects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [["ReadWriteOnce"], ["ReadWriteOncePod"]], ids=" ".join)
def test_dataset_not_shareable_is_rejected_before_pods(modes):
    """Several workers cannot mount a ReadWriteOnce claim."""
    cluster = Cluster(dataset={"claimName": "alone"})
    cluster.claim("alone", *modes)
    cluster.settle()
    assert not cluster.pods("worker")
    accepted = condition(cluster, "Accepted")
    assert accepted["status"] == "False"
    assert f"claim alone is {modes[0]}, which cannot be mounted on several nodes" in accepted["message"]
    assert cluster.status["phase"] == Phase.FAILED


@pytest.mark.parametrize("given", ["late", "one worker", "both modes"])
def test_dataset_with_sufficient_access_mode_is_accepted(given):
    """The training is also accepted if the claim is created later, or if it has only one worker."""
    cluster = Cluster(dataset={"claimName": "alone"}, workers={"replicas": 1 if given == "one worker" else 2})
    if given == "late":
        cluster.settle()
        assert not cluster.pods("worker"), "its access modes are unknown"
    cluster.claim("alone", "ReadWriteOnce", *([] if given == "one worker" else ["ReadOnlyMany"]))
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_resize_not_allowed_by_dataset_keeps_training_running():
    """Accepted is False until the resize is reverted."""
    cluster = Cluster(dataset={"claimName": "alone"}, workers={"replicas": 1})
    cluster.claim("alone", "ReadWriteOnce")
    cluster.run()
    cluster.body["spec"]["workers"]["replicas"] = 3
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING
    assert condition(cluster, "Accepted")["status"] == "False"
    assert len(cluster.pods("worker")) == 1
    cluster.body["spec"]["workers"]["replicas"] = 1
    cluster.settle()
    assert condition(cluster, "Accepted")["status"] == "True"


def test_child_of_other_version_is_updated_once():
    """A changed hash annotation leads to one update."""
    cluster = running_cluster()
    cluster.objects["NetworkPolicy/resnext-digits"]["metadata"]["annotations"][names.SPEC_HASH] = "of-another-version"
    cluster.settle()
    cluster.settle()
    assert cluster.updated == ["NetworkPolicy/resnext-digits"]
    assert cluster.status["phase"] == Phase.RUNNING


def test_child_without_hash_is_not_updated():
    """A missing hash annotation does not cause endless updates."""
    cluster = running_cluster()
    cluster.objects["NetworkPolicy/resnext-digits"]["metadata"]["annotations"] = {}
    cluster.settle()
    assert not cluster.updated


def test_deleted_child_is_recreated_while_running():
    """The operator recreates a deleted NetworkPolicy."""
    cluster = running_cluster()
    del cluster.objects["NetworkPolicy/resnext-digits"]
    cluster.settle()
    assert "NetworkPolicy/resnext-digits" in cluster.objects


def test_lost_worker_replaced_after_attempt_is_recorded():
    """The status records the end of the attempt before the replacement is created."""
    cluster = running_cluster()
    cluster.vanish("resnext-digits-worker-1-0")
    plan = cluster.decide()
    assert not plan.create, "otherwise a restart between the two would lose the evidence that the attempt lost a worker"
    assert plan.status.attempts[0].cause == "disrupted"
    cluster.settle()
    assert len(cluster.pods("worker")) == 2


@pytest.mark.parametrize("lost", ["worker", "launcher"])
def test_recreated_ssh_keys_replace_all_workers(lost):
    """Running workers stay; the next attempt replaces all of them."""
    cluster = running_cluster()
    before = {pod["metadata"]["uid"] for pod in cluster.pods("worker")}
    del cluster.objects["Secret/resnext-digits-ssh"]
    cluster.settle()
    assert {pod["metadata"]["uid"] for pod in cluster.pods("worker")} == before, "running workers keep their keys"
    cluster.vanish(cluster.pods(lost)[-1]["metadata"]["name"])
    run_next_attempt(cluster)
    keys = cluster.objects["Secret/resnext-digits-ssh"]["metadata"]["uid"]
    assert {pod["metadata"]["labels"][names.SSH_SECRET_UID] for pod in cluster.pods("worker")} == {keys}
    assert len(cluster.pods("worker")) == 2
    assert not before & {pod["metadata"]["uid"] for pod in cluster.pods("worker")}


def test_secret_deleted_before_mount_is_recreated():
    """The operator recreates the Secret if pods wait for it longer than 30 s."""
    cluster = Cluster()
    cluster.settle()
    del cluster.objects["Secret/resnext-digits-ssh"]
    for pod in cluster.pods("worker"):
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": START}
        pod["spec"]["nodeName"], pod["status"] = "node", {"phase": "Pending", "conditions": [placed]}
    cluster.settle()
    assert cluster.requeue_seconds == 30
    cluster.wait(seconds=30)
    cluster.settle()
    assert "Secret/resnext-digits-ssh" in cluster.objects
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_slots_default_to_gpus_and_launcher_has_none():
    """The number of ranks follows the GPU limit; the launcher requests no GPU."""
    training = parse(resource(workers={"replicas": 2, "resources": {"limits": {GPU: 4}}}), SITE)
    launcher = launcher_pod(training, 1, HOSTS)
    assert "--world-size=8" in launcher["spec"]["containers"][0]["args"]
    assert GPU not in str(launcher)
