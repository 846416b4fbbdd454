"""Deadlines, resizing, stalls, blame: the rest of a training's life, each rule by itself."""

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
from tests.support.fake_cluster import HOSTS, SITE, Cluster, resource

START = "2026-01-01T00:00:00Z"


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


def names_of(pods):
    return [pod["metadata"]["name"] for pod in pods]


def a_running(**spec):
    cluster = Cluster(**spec)
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    return cluster


def go_on(cluster, times=4):
    """The cluster does what it can until another attempt trains."""
    for _ in range(times):
        cluster.wait(minutes=6)
        cluster.settle()
        cluster.ready()
    cluster.train(40, 40)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RUNNING


# -- how long ----------------------------------------------------------------------------------------------------------


def test_the_deadline_saves_first_and_then_the_training_has_failed():
    cluster = a_running(runPolicy={"activeDeadlineSeconds": 100})
    cluster.wait(seconds=99)
    cluster.settle()
    assert cluster.decide().requeue_after.total_seconds() == 1
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


def test_a_training_that_finishes_while_it_is_stopped_for_its_deadline_has_succeeded():
    cluster = a_running(runPolicy={"activeDeadlineSeconds": 100})
    cluster.wait(seconds=100)
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUCCEEDED


def test_the_deadline_stops_while_suspended_and_restarts_on_resume():
    cluster = a_running(runPolicy={"activeDeadlineSeconds": 100})
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


def test_created_suspended_has_no_start_time_before_it_is_resumed():
    cluster = Cluster(suspend=True)
    cluster.settle()
    assert "startTime" not in cluster.status
    cluster.wait(days=1)
    cluster.body["spec"]["suspend"] = False
    cluster.settle()
    assert cluster.status["startTime"] == "2026-01-02T00:00:00Z"


def test_pods_that_do_not_start_in_time_fail_the_training_in_the_schedulers_words():
    cluster = Cluster("resnext-250ep", runPolicy={"pendingDeadlineSeconds": 60})
    cluster.settle()
    for pod in cluster.pods("worker"):
        said = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": said}]}
    cluster.wait(seconds=59)
    cluster.settle()
    assert cluster.status["phase"] == Phase.PENDING
    cluster.wait(seconds=1)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "PendingDeadlineExceeded"
    assert "Insufficient nvidia.com/gpu" in condition(cluster, "Failed")["message"]
    assert not cluster.pods("worker")


def test_the_time_pending_counts_from_when_the_pods_went_not_from_the_beginning():
    cluster = a_running(runPolicy={"pendingDeadlineSeconds": 60})
    cluster.wait(hours=5)
    cluster.vanish("resnext-digits-worker-1-0")
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    assert cluster.status["phase"] == Phase.RESTARTING
    cluster.wait(seconds=60)
    cluster.settle()
    assert condition(cluster, "Failed")["reason"] == "PendingDeadlineExceeded"


def test_a_launcher_that_does_not_start_in_time_fails_the_training_too():
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


@pytest.mark.parametrize("verdict", [ExitStatus.FINISHED, ExitStatus.DATA_REFUSED], ids=lambda it: it.name.lower())
def test_the_resource_goes_some_time_after_its_end(verdict):
    cluster = a_running(runPolicy={"ttlSecondsAfterFinished": 3600})
    cluster.end(verdict)
    cluster.settle()
    assert not cluster.deleted
    assert cluster.decide().requeue_after.total_seconds() == 3600
    cluster.wait(seconds=3600)
    (reference,) = cluster.decide().delete
    assert (reference.kind, reference.name, reference.uid) == (KIND, "resnext-digits", "training-uid")


def test_a_finished_training_never_makes_anything_again():
    cluster = a_running()
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    made = list(cluster.made)
    for key in [key for key, each in cluster.objects.items() if each["metadata"]["name"] != "digits-data"]:
        del cluster.objects[key]
    cluster.wait(days=1)
    cluster.settle()
    assert cluster.made == made
    assert not cluster.updated


# -- who is to blame ---------------------------------------------------------------------------------------------------


def test_an_attempt_says_who_failed_and_what_was_saved():
    cluster = a_running()
    cluster.end_pod(cluster.pods("worker")[1], 139, "segmentation fault")
    cluster.settle()
    attempt = cluster.status["attempts"][0]
    blamed = {"pod": "resnext-digits-worker-1-0", "node": "node-1", "exitCode": 139, "checkpointStep": 20}
    assert {key: attempt[key] for key in blamed} == blamed
    assert "checkpointStepBefore" not in attempt, "the first attempt starts from nothing"
    go_on(cluster)
    assert cluster.status["attempts"][1]["checkpointStepBefore"] == 20


@pytest.mark.parametrize("limit", ["16Gi", None])
@pytest.mark.parametrize("by_kubelet", [True, False], ids=["cgroup v2", "cgroup v1"])
def test_a_worker_killed_for_memory_is_named_with_its_limit(limit, by_kubelet):
    limits = {"limits": {"memory": limit}} if limit else {}
    cluster = a_running(workers={"replicas": 2, "resources": limits})
    worker = cluster.pods("worker")[1]
    cluster.end_pod(worker, 137, "" if by_kubelet else "a rank was killed for memory: raise it")
    if by_kubelet:
        worker["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    cluster.settle()
    attempt = cluster.status["attempts"][0]
    assert attempt["cause"] == "out_of_memory"
    assert "resnext-digits-worker-1-0" in attempt["message"]
    assert (f"at its limit of {limit}" if limit else "without a limit") in attempt["message"]
    assert cluster.status["failures"] == 1


@pytest.mark.parametrize("rank", [2, 3])
def test_a_report_that_knows_the_rank_blames_its_pod(rank):
    cluster = a_running(workers={"replicas": 2, "slots": 2})
    said = TerminationReport(verdict="hung", message="no step", rank=rank, log=("step 19", "step 20"))
    cluster.end_pod(cluster.pods("launcher")[0], ExitStatus.HUNG.value, said.model_dump_json(by_alias=True))
    cluster.settle()
    attempt = cluster.status["attempts"][0]
    assert (attempt["pod"], attempt["rank"], attempt["log"]) == (
        "resnext-digits-worker-1-0",
        rank,
        ["step 19", "step 20"],
    )


def test_a_report_that_names_one_pod_blames_it_and_no_other():
    cluster = a_running(workers={"replicas": 11})
    cluster.end(ExitStatus.UNREACHABLE, "worker resnext-digits-worker-10-0.resnext-digits could not be reached by ssh")
    cluster.settle()
    assert cluster.status["attempts"][0]["pod"] == "resnext-digits-worker-10-0"


def failing_on(cluster, index, times):
    for _ in range(times):
        alive = [pod for pod in cluster.pods("worker") if pod["metadata"]["labels"][names.WORKER] == str(index)]
        cluster.end_pod(alive[-1], 132, "illegal instruction")
        cluster.settle()
        go_on(cluster)


@pytest.mark.parametrize(("after", "avoided"), [(2, True), (0, False), (3, False)])
def test_a_node_that_failed_twice_is_avoided_by_later_workers(after, avoided):
    cluster = a_running(runPolicy={"avoidNodesAfter": after})
    failing_on(cluster, 1, 1)
    assert "affinity" not in cluster.pods("worker")[1]["spec"]
    healthy = cluster.pods("worker")[0]["metadata"]["uid"]
    failing_on(cluster, 1, 1)
    assert ("node-1" in str(cluster.pods("worker")[1]["spec"].get("affinity"))) is avoided
    assert cluster.pods("worker")[0]["metadata"]["uid"] == healthy, "who is healthy keeps running"


def blaming(cluster, verdict, rank=1):
    """The attempt ends by its launcher's report, which blames a rank; the pods all live."""
    said = TerminationReport(verdict=verdict.name.lower(), message="because", rank=rank)
    cluster.end_pod(cluster.pods("launcher")[-1], verdict.value, said.model_dump_json(by_alias=True))
    cluster.settle()
    return {pod["metadata"]["name"]: str(pod["spec"].get("affinity")) for pod in cluster.pods("worker")}


@pytest.mark.parametrize(
    "verdict", [ExitStatus.NO_GPU, ExitStatus.HUNG, ExitStatus.UNREACHABLE], ids=lambda it: it.name.lower()
)
def test_a_worker_that_is_to_blame_and_still_runs_is_replaced_and_the_others_stay(verdict):
    cluster = a_running()
    kept = cluster.pods("worker")[0]["metadata"]["uid"]
    pods = blaming(cluster, verdict)
    assert list(pods) == ["resnext-digits-worker-0-0", "resnext-digits-worker-1-1"]
    assert cluster.pods("worker")[0]["metadata"]["uid"] == kept
    assert ("node-1" in pods["resnext-digits-worker-1-1"]) is (verdict is ExitStatus.NO_GPU), "retried on another node"
    go_on(cluster)
    assert cluster.status["failures"] == 1


def test_a_rank_that_crashes_twice_on_a_node_gets_another_pod_elsewhere():
    cluster = a_running()
    assert list(blaming(cluster, ExitStatus.CRASHED)) == ["resnext-digits-worker-0-0", "resnext-digits-worker-1-0"]
    cluster.wait(seconds=5)
    cluster.settle()
    go_on(cluster)
    blaming(cluster, ExitStatus.CRASHED)
    cluster.wait(seconds=5)
    cluster.settle()
    pods = {pod["metadata"]["name"]: str(pod["spec"].get("affinity")) for pod in cluster.pods("worker")}
    assert "node-1" in pods["resnext-digits-worker-1-1"]
    go_on(cluster)


def test_a_limit_of_memory_is_no_fault_of_the_node():
    cluster = a_running()
    for _ in range(3):
        cluster.end_pod(cluster.pods("worker")[-1], 137, "a rank was killed for memory")
        cluster.settle()
        go_on(cluster)
    assert "affinity" not in cluster.pods("worker")[1]["spec"]


def test_evidence_that_settles_a_crash_is_not_waited_for():
    cluster = Cluster()
    cluster.settle()
    cluster.ready()
    cluster.settle()
    cluster.ready()
    for pod in (*cluster.pods("worker"), *cluster.pods("launcher")):
        pod["spec"]["nodeName"] = "the-only-node"  # whose kubelet told of the end, and so it lives
    cluster.train(20, 20)
    cluster.settle()
    cluster.end(ExitStatus.CRASHED)
    cluster.settle()
    assert cluster.decide().requeue_after.total_seconds() == 5, "for its kubelet to tell of the other pods"
    cluster.wait(seconds=5)
    cluster.settle()
    assert cluster.status["failures"] == 1


def a_moved_first_worker(*modes, silent=True):
    """Worker 0 has its node, and the pod before it hangs in Terminating on one that does not answer."""
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


def test_a_first_worker_that_waits_for_its_volume_says_which_node_holds_it():
    cluster = a_moved_first_worker("ReadWriteOnce")
    ready = condition(cluster, "WorkersReady")
    assert (ready["status"], ready["reason"]) == ("False", "Detaching")
    for word in ("resnext-digits-worker-0-1", "node node-0", "resnext-digits-worker-0-0", "out-of-service"):
        assert word in ready["message"]
    assert cluster.events.count("Detaching") == 1
    assert "failures" not in cluster.status
    del cluster.objects["resnext-digits-worker-0-1"]["status"]  # the volume has come
    go_on(cluster)
    assert condition(cluster, "WorkersReady")["status"] == "True"


def test_a_volume_that_nodes_share_or_that_is_given_back_in_order_needs_no_words():
    for cluster in (a_moved_first_worker("ReadWriteMany"), a_moved_first_worker("ReadWriteOnce", silent=False)):
        assert condition(cluster, "WorkersReady")["reason"] == "Waiting"


# -- resizing, and changes while suspended -----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 4])
def test_another_number_of_workers_saves_and_goes_on_with_as_many(replicas):
    cluster = a_running()
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
    assert f"--world={replicas}" in cluster.pods("launcher")[-1]["spec"]["containers"][0]["args"]
    assert "failures" not in cluster.status


def names_of_references(references):
    return [each.name for each in references]


def test_a_resize_that_is_taken_back_in_time_still_goes_on():
    cluster = a_running()
    cluster.body["spec"]["workers"]["replicas"] = 4
    cluster.apply_plan(cluster.decide())
    cluster.body["spec"]["workers"]["replicas"] = 2
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert cluster.status["workers"]["replicas"] == 2


CHANGES = {
    "nodeSelector": {"pool": "b"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "labels": {"team": "vision"},
    "resources": {"limits": {"memory": "2Gi"}},
}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("seen_suspended", [True, False], ids=["slowly", "before the operator looks"])
def test_what_changes_while_suspended_reaches_every_pod(field, seen_suspended):
    cluster = a_running()
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
    for pod in pods:
        found = {**pod["spec"], **pod["spec"]["containers"][0], **pod["metadata"]}[field]
        if isinstance(found, list):
            assert CHANGES[field][0].items() <= found[0].items()
        else:
            assert CHANGES[field].items() <= found.items()
    assert "failures" not in cluster.status


def test_neither_a_new_version_of_the_operator_nor_a_resize_replaces_a_pod():
    cluster = a_running()
    other = parse(copy.deepcopy(cluster.body), OperatorPolicy("another/default-image:2"))
    assert pod_revision(other) == pod_revision(cluster.training)
    for replicas in (1, 3):
        resized = parse(resource(workers={"replicas": replicas}), SITE)
        assert pod_revision(resized) == pod_revision(parse(resource(workers={}), SITE))


# -- stalls ------------------------------------------------------------------------------------------------------------


def a_steady(**run_policy):
    """A training whose step takes a second, as twenty answers have told."""
    cluster = a_running(runPolicy={"stallMultiple": 200, "stallDeadlineSeconds": 300, **run_policy})
    for step in range(21, 40):
        cluster.wait(seconds=1)
        cluster.train(step, 20)
        cluster.settle()
    return cluster


def test_no_step_for_long_is_a_stall_that_says_where_each_rank_is():
    cluster = a_steady()
    cluster.wait(seconds=199)
    cluster.settle()
    assert condition(cluster, "Stalled") == {}
    cluster.last_steps = {0: 39, 1: 38, 2: None}
    cluster.wait(seconds=1)
    cluster.settle()
    stalled = condition(cluster, "Stalled")
    assert stalled["status"] == "True"
    assert "rank 2 does not answer, rank 0 at 39, rank 1 at 38" in stalled["message"]
    assert cluster.events.count("Stalled") == 1
    cluster.wait(seconds=100)
    cluster.settle()
    assert condition(cluster, "Stalled") == stalled, "told once"


def test_a_stall_is_over_with_the_next_step():
    cluster = a_steady()
    cluster.wait(seconds=250)
    cluster.settle()
    cluster.train(41, 20)
    cluster.settle()
    assert condition(cluster, "Stalled")["status"] == "False"
    assert cluster.status["phase"] == Phase.RUNNING


def test_a_stall_that_lasts_ends_the_attempt_as_hung_and_is_counted():
    cluster = a_steady()
    cluster.wait(seconds=200)
    cluster.settle()
    cluster.wait(seconds=300)
    assert names_of_references(cluster.decide().delete) == ["resnext-digits-launcher-1"]
    cluster.settle()
    assert cluster.status["attempts"][0]["cause"] == "hung"
    assert "no step for 200 s" in cluster.status["attempts"][0]["message"]
    assert cluster.status["failures"] == 1
    assert condition(cluster, "Stalled")["status"] == "False"
    go_on(cluster)


def test_fast_steps_are_given_a_minute_all_the_same():
    cluster = a_steady(stallMultiple=2)
    cluster.wait(seconds=59)
    cluster.settle()
    assert condition(cluster, "Stalled") == {}
    cluster.wait(seconds=1)
    cluster.settle()
    assert condition(cluster, "Stalled")["status"] == "True"


def test_an_operator_that_was_away_judges_no_stall_by_what_it_has_missed():
    cluster = a_steady()
    cluster.progress = None
    cluster.wait(hours=1)
    cluster.settle()
    assert condition(cluster, "Stalled") == {}


# -- what it stands on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [["ReadWriteOnce"], ["ReadWriteOncePod"]], ids=" ".join)
def test_a_dataset_that_nodes_cannot_share_is_refused_before_any_pod_is_made(modes):
    cluster = Cluster(dataset={"claimName": "alone"})
    cluster.claim("alone", *modes)
    cluster.settle()
    assert not cluster.pods("worker")
    accepted = condition(cluster, "Accepted")
    assert accepted["status"] == "False"
    assert f"claim alone is {modes[0]}, which several nodes cannot mount together" in accepted["message"]
    assert cluster.status["phase"] == Phase.FAILED


@pytest.mark.parametrize("given", ["late", "one worker", "both modes"])
def test_a_dataset_that_suffices_is_accepted(given):
    cluster = Cluster(dataset={"claimName": "alone"}, workers={"replicas": 1 if given == "one worker" else 2})
    if given == "late":
        cluster.settle()
        assert not cluster.pods("worker"), "nobody knows yet if it can be shared"
    cluster.claim("alone", "ReadWriteOnce", *([] if given == "one worker" else ["ReadOnlyMany"]))
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_a_resize_that_the_dataset_forbids_is_refused_and_the_training_goes_on():
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


def test_a_child_that_was_made_by_another_version_is_updated_once():
    cluster = a_running()
    cluster.objects["NetworkPolicy/resnext-digits"]["metadata"]["annotations"][names.SPEC_HASH] = "of-another-version"
    cluster.settle()
    cluster.settle()
    assert cluster.updated == ["NetworkPolicy/resnext-digits"]
    assert cluster.status["phase"] == Phase.RUNNING


def test_a_child_stripped_of_its_hash_is_not_updated_for_ever():
    cluster = a_running()
    cluster.objects["NetworkPolicy/resnext-digits"]["metadata"]["annotations"] = {}
    cluster.settle()
    assert not cluster.updated


def test_a_child_that_goes_while_the_training_runs_is_made_again():
    cluster = a_running()
    del cluster.objects["NetworkPolicy/resnext-digits"]
    cluster.settle()
    assert "NetworkPolicy/resnext-digits" in cluster.objects


def test_a_lost_worker_is_replaced_only_when_the_attempts_end_is_recorded():
    cluster = a_running()
    cluster.vanish("resnext-digits-worker-1-0")
    plan = cluster.decide()
    assert not plan.create, "cut off between the two, nothing would tell that the attempt has lost a worker"
    assert plan.status["attempts"][0]["cause"] == "disruption"
    cluster.settle()
    assert len(cluster.pods("worker")) == 2


@pytest.mark.parametrize("lost", ["worker", "launcher"])
def test_when_the_keys_had_to_be_made_anew_every_worker_gets_them(lost):
    cluster = a_running()
    before = {pod["metadata"]["uid"] for pod in cluster.pods("worker")}
    del cluster.objects["Secret/resnext-digits-ssh"]
    cluster.settle()
    assert {pod["metadata"]["uid"] for pod in cluster.pods("worker")} == before, "who has its keys needs no others"
    cluster.vanish(cluster.pods(lost)[-1]["metadata"]["name"])
    go_on(cluster)
    keys = cluster.objects["Secret/resnext-digits-ssh"]["metadata"]["uid"]
    assert {pod["metadata"]["labels"][names.SSH_SECRET_UID] for pod in cluster.pods("worker")} == {keys}
    assert len(cluster.pods("worker")) == 2
    assert not before & {pod["metadata"]["uid"] for pod in cluster.pods("worker")}


def test_a_secret_that_goes_before_the_pods_have_mounted_it_is_made_again():
    cluster = Cluster()
    cluster.settle()
    del cluster.objects["Secret/resnext-digits-ssh"]
    for pod in cluster.pods("worker"):
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": START}
        pod["spec"]["nodeName"], pod["status"] = "node", {"phase": "Pending", "conditions": [placed]}
    cluster.settle()
    assert cluster.decide().requeue_after.total_seconds() == 30
    cluster.wait(seconds=30)
    cluster.settle()
    assert "Secret/resnext-digits-ssh" in cluster.objects
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING


def test_slots_follow_the_gpus_and_the_launcher_asks_for_none():
    training = parse(resource(workers={"replicas": 2, "resources": {"limits": {GPU: 4}}}), SITE)
    launcher = launcher_pod(training, 1, HOSTS)
    assert "--world=8" in launcher["spec"]["containers"][0]["args"]
    assert GPU not in str(launcher)
