"""What `kubectl get` prints and what the conditions say agree with each other and with what runs, in every phase."""

import json
from datetime import timedelta

import pytest
from prometheus_client import generate_latest

from resnext_operator.api import crd
from resnext_operator.domain.admission import plan_for_invalid_spec
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.progress import duration
from resnext_operator.rendering import names
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.metrics import Metrics
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster

RATES = ("imagesPerSecond", "estimatedCompletionTime")


def condition(cluster, kind):
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


def trains(cluster, step, **known):
    """The ranks have come to a step, with throughput, loss and accuracy."""
    cluster.train(step, step)
    known = {"images_per_second": 640.0, "loss": 0.5, "top1": 0.9, "best_top1": 0.9, **known}
    cluster.progress = cluster.progress.model_copy(update=known)
    cluster.settle()


def reject(cluster):
    """The API server rejects each pod that the plan creates."""
    plan = cluster.decide()
    if pods := [each for each in plan.create if each["kind"] == "Pod"]:
        metadata = pods[0]["metadata"]
        quota = f'pods "{metadata["name"]}" is forbidden: exceeded quota: team'
        plan = cluster.rejected(plan, Rejection("Pod", metadata["name"], metadata["labels"][names.ROLE], 403, quota))
    cluster.body["status"] = plan.status


@pytest.fixture
def running():
    cluster = Cluster()
    cluster.run()
    trains(cluster, 20)
    cluster.wait(seconds=60)
    trains(cluster, 40)
    return cluster


def series(cluster):
    """The lines of /metrics that are about the training."""
    cache = Cache()
    body = {**cluster.body, "metadata": {**cluster.body["metadata"], "resourceVersion": "1"}}
    cache.upsert(json.loads(json.dumps(body)))
    metrics = Metrics(cache, lambda: 0)
    metrics.leading = True
    return [each for each in generate_latest(metrics.registry).decode().splitlines() if "resnext-digits" in each]


def agree(cluster):
    """The number of ready workers is the same in the status, the column and the condition."""
    workers, ready = cluster.status["workers"], condition(cluster, "WorkersReady")
    assert cluster.status["printed"]["workers"] == f"{workers['ready']}/{workers['replicas']}"
    assert ready["message"] == f"{workers['ready']} of {workers['replicas']} workers are ready"
    assert ready["status"] == str(workers["ready"] == workers["replicas"])


def at_rest(cluster):
    """Nothing runs: no rates in status, columns and series; the results stay."""
    progress, printed = cluster.status["progress"], cluster.status["printed"]
    assert not [rate for rate in RATES if rate in progress]
    assert not [rate for rate in ("imagesPerSecond", "eta") if rate in printed]
    assert not [line for line in series(cluster) if "images_per_second" in line]
    assert [line for line in series(cluster) if "accuracy" in line]
    assert (progress["top1"], progress["loss"], progress["step"]) == (0.9, 0.5, 40)
    assert (printed["top1"], printed["loss"]) == ("0.9000", "0.500")
    agree(cluster)


def test_eta_is_the_remaining_time_as_text(running):
    """kubectl prints a date as an age, and one to come as <invalid>: 20 steps in 60 s leave 120 steps, 6 minutes."""
    columns = {each["name"]: each for each in crd.manifest()["spec"]["versions"][0]["additionalPrinterColumns"]}
    assert (columns["ETA"]["type"], columns["ETA"]["jsonPath"]) == ("string", ".status.printed.eta")
    assert [name for name, each in columns.items() if each["type"] == "date"] == ["Age"]
    assert running.status["printed"]["eta"] == "6m"
    assert running.status["printed"]["imagesPerSecond"] == "640"
    assert [line for line in series(running) if "images_per_second" in line]
    agree(running)


@pytest.mark.parametrize(
    ("seconds", "printed"),
    [
        *((0, "0s"), (-5, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (600, "10m"), (10_799, "179m")),
        *((10_800, "3h"), (11_100, "3h5m"), (28_800, "8h"), (172_799, "47h"), (172_800, "2d"), (180_000, "2d2h")),
        *((691_200, "8d"), (63_071_999, "729d"), (63_072_000, "2y"), (63_158_400, "2y1d")),
    ],
)
def test_a_duration_is_printed_as_kubectl_prints_ages(seconds, printed):
    """k8s.io/apimachinery/pkg/util/duration.HumanDuration."""
    assert duration(timedelta(seconds=seconds)) == printed


def test_suspended_shows_no_rates(running):
    """While the pods go and when they are gone."""
    running.body["spec"]["suspend"] = True
    running.settle()
    assert running.status["phase"] == "Suspended"
    at_rest(running)
    assert condition(running, "Scheduled")["status"] == condition(running, "Running")["status"] == "False"
    assert running.status["workers"]["ready"] == 0


@pytest.mark.parametrize(
    ("verdict", "phase"),
    [
        (ExitStatus.FINISHED, "Succeeded"),
        (ExitStatus.DATA_REFUSED, "Failed"),
        (ExitStatus.HUNG, "Restarting"),
        (ExitStatus.WRONG_WORLD, "Restarting"),
    ],
)
def test_after_an_attempt_there_are_no_rates(running, verdict, phase):
    """Whether the training ended or waits for its next attempt."""
    running.end(verdict)
    running.settle()
    assert running.status["phase"] == phase
    at_rest(running)
    if phase != "Restarting":
        assert running.status["workers"]["ready"] == 0
        assert condition(running, "Scheduled")["status"] == "False"


def test_a_new_attempt_shows_no_rates_of_the_last(running):
    """Until its own ranks answer; the loss of the last attempt still holds."""
    running.end(ExitStatus.WRONG_WORLD)
    running.settle()
    running.wait(seconds=10)
    running.settle()
    running.ready()
    running.settle()
    assert running.status["phase"] == "Starting"
    at_rest(running)
    trains(running, 40, loss=None, top1=None, best_top1=None, images_per_second=None)
    assert running.status["phase"] == "Running"
    at_rest(running)


def test_the_last_words_of_a_finished_training_bring_no_rates(running):
    """The launcher's report carries the progress with a rate in it."""
    message = {"verdict": "finished", "message": "done"}
    message["progress"] = json.loads(running.progress.model_dump_json(by_alias=True))
    running.end_pod(running.pods("launcher")[-1], 0, json.dumps(message))
    running.settle()
    at_rest(running)


def test_stalled_shows_no_rates_and_moves_no_clock(running):
    """Steps are not made; that the rates go is no progress."""
    for step in (60, 80, 100):
        running.wait(seconds=3)
        trains(running, step)
    at = running.status["progress"]["updatedTime"]
    running.wait(hours=1)
    running.settle()
    assert condition(running, "Stalled")["status"] == "True"
    assert not [rate for rate in RATES if rate in running.status["progress"]]
    assert not [line for line in series(running) if "images_per_second" in line]
    assert running.status["progress"]["updatedTime"] == at
    trains(running, 120)
    assert running.status["progress"]["imagesPerSecond"] == 640.0


def test_a_rate_that_changes_alone_is_no_step(running):
    """Else a rank that stands still while its average falls would never be Stalled."""
    before = running.status["progress"]["updatedTime"]
    running.wait(seconds=30)
    running.progress = running.progress.model_copy(update={"images_per_second": 320.0})
    running.settle()
    assert running.status["progress"]["imagesPerSecond"] == 320.0
    assert running.status["progress"]["updatedTime"] == before


def test_workers_that_stay_after_the_end_are_counted():
    """cleanPodPolicy None leaves them, and what is left is shown."""
    cluster = Cluster(runPolicy={"cleanPodPolicy": "None"})
    cluster.run()
    cluster.end(ExitStatus.FINISHED)
    cluster.settle()
    assert cluster.status["workers"] == {"replicas": 2, "ready": 2}
    agree(cluster)


def test_workers_column_follows_refused_launchers():
    """A quota that lets the launcher wait: the column and the condition tell of the same pods."""
    cluster = Cluster()
    cluster.settle()
    cluster.ready()
    for _ in range(3):
        reject(cluster)
        assert cluster.status["workers"] == {"replicas": 2, "ready": 2}
        agree(cluster)
        cluster.wait(seconds=30)


@pytest.mark.parametrize("ready", [False, True], ids=["workers refused", "launcher refused"])
def test_transition_times_stay_while_pods_are_refused(ready):
    """A plan passes through states that are not stored: only a status that differs from the stored one moves."""
    cluster = Cluster()
    if ready:
        cluster.settle()
        cluster.ready()

    def refuse():
        reject(cluster)
        return {each["type"]: each["lastTransitionTime"] for each in cluster.status["conditions"]}

    first = refuse()
    for _ in range(5):
        cluster.wait(seconds=30)
        assert refuse() == first


@pytest.mark.parametrize("trouble", ["claim", "image"])
def test_the_reason_goes_with_what_it_was_about(trouble):
    """REASON and Scheduled do not tell of a claim or an image that is there by now."""
    cluster = Cluster(dataset={"claimName": "late"}) if trouble == "claim" else Cluster()
    cluster.settle()
    if trouble == "image":
        waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
        for pod in cluster.pods("worker"):
            pod["status"] = {"containerStatuses": [{"state": waiting}]}
        cluster.settle()
    assert cluster.status["reason"] == {"claim": "ClaimMissing", "image": "NotStarting"}[trouble]
    cluster.claim("late", "ReadWriteMany")
    for pod in cluster.pods("worker"):
        pod.pop("status")
    cluster.settle()
    assert cluster.status["reason"] == condition(cluster, "Scheduled")["reason"] == "Waiting"
    cluster.ready()
    cluster.settle()
    assert condition(cluster, "Scheduled")["status"] == "True"
    agree(cluster)


def test_an_invalid_spec_shows_nothing_that_runs(running):
    """A spec that is refused later: no rates, and Running is False."""
    plan = plan_for_invalid_spec(running.training.status, running.seen, 2, "spec.workers.slots: no", running.now)
    running.apply_plan(plan)
    assert condition(running, "Running")["status"] == "False"
    assert "imagesPerSecond" not in running.status["progress"]
    assert "eta" not in running.status["printed"]
