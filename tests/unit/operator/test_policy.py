"""The life of a training: what is done, recorded and told at each turn."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext_operator.api.status import Phase
from resnext_operator.domain.attempt_outcome import EVIDENCE_GRACE
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster

FINAL = [
    ExitStatus.CONFIGURATION_REFUSED,
    ExitStatus.DATA_REFUSED,
    ExitStatus.NOT_FINITE,
    ExitStatus.NO_GOOD_CHECKPOINT,
]
COUNTED = [ExitStatus.WRONG_WORLD, ExitStatus.UNREACHABLE, ExitStatus.NO_GPU, ExitStatus.HUNG]


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


def names_of(pods):
    return [pod["metadata"]["name"] for pod in pods]


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def running(cluster):
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    return cluster


def test_a_launcher_comes_when_every_worker_is_ready(cluster):
    cluster.settle()
    assert names_of(cluster.pods("worker")) == ["resnext-digits-worker-0-0", "resnext-digits-worker-1-0"]
    assert not cluster.pods("launcher")
    assert cluster.status["phase"] == Phase.PENDING
    cluster.ready()
    cluster.settle()
    assert names_of(cluster.pods("launcher")) == ["resnext-digits-launcher-1"]
    assert cluster.status["phase"] == Phase.STARTING


def test_progress_is_in_the_status_and_in_the_printed_columns(running):
    assert running.status["progress"]["step"] == 20
    assert running.status["checkpoint"]["step"] == 20
    printed = running.status["printed"]
    assert (printed["workers"], printed["epoch"], printed["percent"]) == ("2/2", "1.0/8", "12%")


def test_the_scheduler_is_quoted_while_pods_have_no_place():
    cluster = Cluster("resnext-250ep")
    cluster.settle()
    for pod in cluster.pods("worker"):
        said = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": said}]}
    cluster.settle()
    assert cluster.status["phase"] == Phase.PENDING
    assert condition(cluster, "Scheduled")["status"] == "False"
    assert "nvidia.com/gpu" in condition(cluster, "Scheduled")["message"]


def test_a_pod_that_may_still_be_placed_alarms_nobody():
    cluster = Cluster()
    cluster.settle()
    said = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    unplaced = {
        "type": "PodScheduled",
        "status": "False",
        "message": said,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    for pod in cluster.pods("worker"):
        pod["status"] = {"conditions": [unplaced]}
    cluster.settle()
    assert "Unschedulable" not in cluster.events
    assert cluster.decide().requeue_after.total_seconds() == 5
    cluster.wait(seconds=5)
    cluster.settle()
    assert cluster.events.count("Unschedulable") == 1


def test_a_claim_that_is_missing_is_named():
    cluster = Cluster(dataset={"claimName": "nowhere"})
    cluster.settle()
    assert "no claim nowhere" in condition(cluster, "Scheduled")["message"]


def test_finished_is_success_and_the_workers_go(running):
    running.end(ExitStatus.FINISHED)
    running.settle()
    assert running.status["phase"] == Phase.SUCCEEDED
    assert condition(running, "Succeeded")["status"] == "True"
    assert not running.pods("worker")
    assert len(running.pods("launcher")) == 1, "its log stays"


@pytest.mark.parametrize(("policy_of_pods", "workers", "launchers"), [("Running", 0, 1), ("All", 0, 0), ("None", 2, 1)])
def test_what_stays_after_the_end(policy_of_pods, workers, launchers):
    cluster = Cluster(runPolicy={"cleanPodPolicy": policy_of_pods})
    cluster.run()
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    assert (len(cluster.pods("worker")), len(cluster.pods("launcher"))) == (workers, launchers)


@pytest.mark.parametrize("verdict", FINAL, ids=lambda it: it.name.lower())
def test_what_another_attempt_would_only_repeat_fails_at_once(running, verdict):
    running.end(verdict, "shard train-00000-of-00004 is cut short")
    running.settle()
    assert running.status["phase"] == Phase.FAILED
    assert "train-00000-of-00004" in condition(running, "Failed")["message"]
    assert running.status["attempts"][-1]["exitCode"] == verdict.value


@pytest.mark.parametrize("verdict", COUNTED, ids=lambda it: it.name.lower())
def test_what_may_be_better_next_time_is_tried_again_and_counted(running, verdict):
    running.end(verdict)
    running.settle()
    assert running.status["failures"] == 1
    assert running.status["phase"] == Phase.RESTARTING
    running.wait(seconds=10)
    running.settle()
    assert [each["number"] for each in running.status["attempts"]] == [1, 2]
    assert running.status["attempts"][0]["cause"] == verdict.name.lower()
    assert condition(running, "Running")["status"] == "False"


def test_the_limit_of_failures_is_kept_and_pauses_grow():
    cluster = Cluster(runPolicy={"backoffLimit": 3})
    cluster.run()
    pauses = []
    while cluster.status["phase"] != Phase.FAILED:
        cluster.end(ExitStatus.HUNG)
        cluster.settle()
        began = cluster.now
        while cluster.status["phase"] == Phase.RESTARTING:
            cluster.apply_plan(plan := cluster.decide())
            cluster.wait(seconds=plan.requeue_after.total_seconds() if plan.requeue_after else 0)
        pauses.append((cluster.now - began).total_seconds())
        cluster.ready()
    assert pauses == [10, 20, 40, 0]
    assert len(cluster.status["attempts"]) == 4
    assert condition(cluster, "Failed")["reason"] == "BackoffLimitExceeded"


@pytest.mark.parametrize("report", [True, False])
def test_a_crash_waits_for_what_may_explain_it(running, report):
    running.end(ExitStatus.CRASHED, report=report)
    running.settle()
    assert running.status["phase"] == Phase.RUNNING
    assert running.decide().requeue_after == EVIDENCE_GRACE
    running.wait(seconds=91)
    running.settle()
    assert running.status["failures"] == 1


def test_a_crash_is_a_disruption_when_a_worker_was_evicted(running):
    running.end(ExitStatus.CRASHED)
    evicted = running.pods("worker")[1]
    evicted["status"] = {"phase": "Failed", "reason": "Evicted"}
    running.settle()
    assert running.status["disruptions"] == 1
    assert "failures" not in running.status


def test_a_node_that_is_known_to_be_lost_only_later_still_explains_a_crash(running):
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
    """What the node controller says of the pods of a node that does not answer; they stay in Terminating."""
    for pod in pods:
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:02:00Z"
        taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        pod["status"]["conditions"] = [taken, {"type": "Ready", "status": "False"}]


@pytest.mark.parametrize("lost", ["worker", "launcher", "both"])
def test_who_hangs_in_terminating_on_a_lost_node_is_not_waited_for(running, lost):
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


def test_a_launcher_whose_ranks_wait_for_one_that_is_lost_is_not_given_long_to_save(running):
    lose_node(running.pods("worker")[1])
    running.apply_plan(running.decide())
    graces = {each.name: each.grace_seconds for each in running.decide().delete}
    assert graces == {"resnext-digits-launcher-1": 5}
    running.body["spec"]["suspend"] = True
    assert {each.grace_seconds for each in running.decide().delete if "worker" in each.name} == {None}


def test_a_node_that_is_emptied_while_it_answers_is_given_time_to_save(running):
    worker = running.pods("worker")[1]
    lose_node(worker)
    worker["status"]["conditions"][1]["status"] = "True"
    running.settle()
    assert running.status["phase"] == Phase.RUNNING
    assert len(running.pods("worker")) == 2


def test_a_launcher_on_a_lost_node_does_not_keep_a_training_from_being_suspended(running):
    running.body["spec"]["suspend"] = True
    running.apply_plan(running.decide())
    launcher = running.gone.pop()
    launcher["status"] = {"phase": "Running", "conditions": []}
    running.objects[launcher["metadata"]["name"]] = launcher
    lose_node(launcher)
    running.settle()
    assert running.status["attempts"][-1]["cause"] == "stopped"
    assert not running.pods("worker")


def test_only_the_lost_worker_is_replaced_under_another_name(running):
    running.vanish("resnext-digits-worker-1-0")
    running.end(ExitStatus.CRASHED)
    kept = running.pods("worker")[0]["metadata"]["uid"]
    running.settle()
    running.ready()
    running.settle()
    assert running.pods("worker")[0]["metadata"]["uid"] == kept
    assert running.status["disruptions"] == 1
    assert running.status["attempts"][-1]["number"] == 2


def test_a_worker_that_failed_by_itself_is_counted_and_its_successor_has_the_next_number(running):
    running.end_pod(running.pods("worker")[1], 137, "a rank was killed for memory")
    running.settle()
    assert running.status["failures"] == 1
    assert "killed for memory" in running.status["attempts"][0]["message"]
    assert names_of(running.pods("worker"))[-1] == "resnext-digits-worker-1-1"


def test_suspend_saves_then_gives_the_pods_back_and_resume_goes_on(running):
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


def test_the_launcher_goes_before_the_workers(running):
    running.body["spec"]["suspend"] = True
    assert [each.name for each in running.decide().delete] == ["resnext-digits-launcher-1"]


def test_created_suspended_has_no_pods():
    cluster = Cluster(suspend=True)
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED
    assert not cluster.pods("worker")


@pytest.mark.parametrize("change", [{"managedBy": "someone.else/queue"}, {}], ids=["managed elsewhere", "deleting"])
def test_what_is_not_ours_is_left_alone(change):
    cluster = Cluster(**change)
    if not change:
        cluster.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    plan = cluster.decide()
    assert (plan.create, plan.delete, plan.status) == ((), (), {})


def test_the_last_ten_attempts_are_kept():
    cluster = Cluster()
    cluster.run()
    for _ in range(12):
        cluster.vanish(cluster.pods("launcher")[-1]["metadata"]["name"])
        cluster.wait(minutes=10)
        cluster.settle()
        cluster.ready()
    assert [each["number"] for each in cluster.status["attempts"]] == list(range(4, 14))


MISFORTUNES = st.lists(
    st.sampled_from(["ready", "train", "vanish", "evict", "crash", "hang", "suspend", "resume", "wait", "launcher"]),
    max_size=25,
)


def befall(cluster, what):
    workers, launchers = cluster.pods("worker"), cluster.pods("launcher")
    alive = [each for each in launchers if (each.get("status") or {}).get("phase") == "Running"]
    under_way = "attempts" in cluster.status and "endTime" not in cluster.status["attempts"][-1]
    match what:
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
            cluster.body["spec"]["suspend"] = what == "suspend"
        case "wait":
            cluster.wait(minutes=6)


@settings(max_examples=150, deadline=None)
@given(misfortunes=MISFORTUNES)
def test_whatever_happens_the_operator_comes_to_rest_and_the_training_to_its_end(misfortunes):
    """Nothing changed means nothing to do, and no history leads to where a training cannot go on."""
    cluster = Cluster(runPolicy={"backoffLimit": 1000})
    for what in misfortunes:
        cluster.settle()
        befall(cluster, what)
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
@given(misfortunes=MISFORTUNES)
def test_a_plan_deletes_only_a_finished_launcher_whose_end_is_recorded(misfortunes):
    cluster = Cluster(runPolicy={"backoffLimit": 1000, "cleanPodPolicy": "All"})
    for what in misfortunes:
        cluster.settle()
        befall(cluster, what)
        plan = cluster.decide()
        recorded = {each["number"] for each in cluster.status.get("attempts", ()) if "endTime" in each}
        for each in cluster.seen.launchers:
            if each.finished and each.uid in {reference.uid for reference in plan.delete}:
                assert each.attempt in recorded


def test_a_launcher_that_was_made_and_not_recorded_is_recorded_as_if_it_had_been(cluster):
    cluster.settle()
    cluster.ready()
    before = copy.deepcopy(cluster.status)
    cluster.settle()
    recorded = copy.deepcopy(cluster.status)
    assert names_of(cluster.pods("launcher")) == ["resnext-digits-launcher-1"]
    cluster.body["status"] = before  # the operator ended between the launcher and the status
    cluster.settle()
    assert names_of(cluster.pods("launcher")) == ["resnext-digits-launcher-1"]
    assert cluster.status == recorded


def test_a_launcher_that_came_and_went_unseen_had_all_workers_ready(cluster):
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
    cluster.end(ExitStatus.FINISHED)
    cluster.body["status"] = before  # the operator was away all the time
    cluster.settle()
    assert cluster.status["phase"] == "Succeeded"
    assert condition(cluster, "WorkersReady")["message"] == "0 of 2 workers are ready", "they were deleted"
    assert condition(cluster, "Running")["reason"] == "Finished"


def test_differences_of_a_continued_run_are_shown(running):
    """In the status for as long as the run has them, and once as an event."""
    differences = ("seed: was 0, is 4", "dataset.train: was 64 records in 1 part, is 65 records in 1 part")
    for step in (40, 60):
        running.wait(seconds=10)
        running.train(step, saved=step)
        saved = running.progress.checkpoint.model_copy(update={"differences": differences})
        running.progress = running.progress.model_copy(update={"checkpoint": saved})
        running.settle()
        assert running.status["checkpoint"]["differences"] == list(differences)
    assert running.events.count("RecipeChanged") == 1


def test_run_without_differences_shows_none(running):
    """Not even an empty list."""
    assert "differences" not in running.status["checkpoint"]
