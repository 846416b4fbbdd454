"""The printed columns of `kubectl get` and the conditions agree with each other and with the pods, in every phase."""

import json
from datetime import timedelta

import pytest
from prometheus_client import generate_latest

from resnext_operator.api import crd
from resnext_operator.domain.admission import plan_for_name_conflict
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.progress import duration
from resnext_operator.rendering import names
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.metrics import Metrics
from resnext_trainer.contract import ExitStatus
from tests.support.fake_cluster import Cluster, condition

RATES = ("imagesPerSecond", "estimatedCompletionTime")


def trains(cluster, step, **known):
    """Report a step with throughput, loss and accuracy."""
    cluster.train(step, step)
    known = {"images_per_second": 640.0, "loss": 0.5, "top1": 0.9, "best_top1": 0.9, **known}
    cluster.progress = cluster.progress.model_copy(update=known)
    cluster.settle()


def reject(cluster):
    """Reject each pod that the plan creates, as the API server does."""
    plan = cluster.decide()
    if pods := [each for each in plan.create if each["kind"] == "Pod"]:
        metadata = pods[0]["metadata"]
        quota = f'pods "{metadata["name"]}" is forbidden: exceeded quota: team'
        plan = cluster.rejected(plan, Rejection("Pod", metadata["name"], metadata["labels"][names.ROLE], 403, quota))
    cluster.body["status"] = plan.status.to_json()


@pytest.fixture
def running():
    cluster = Cluster()
    cluster.run()
    trains(cluster, 20)
    cluster.wait(seconds=60)
    trains(cluster, 40)
    return cluster


def series(cluster):
    """The lines of /metrics with labels of the training."""
    cache = Cache()
    body = {**cluster.body, "metadata": {**cluster.body["metadata"], "resourceVersion": "1"}}
    cache.upsert(json.loads(json.dumps(body)))
    metrics = Metrics(cache, lambda: 0)
    metrics.leading = True
    return [each for each in generate_latest(metrics.registry).decode().splitlines() if "resnext-digits" in each]


def agree(cluster):
    """Check that status, column and condition have the same number of ready workers."""
    workers, ready = cluster.status["workers"], condition(cluster, "WorkersReady")
    assert cluster.status["summary"]["workers"] == f"{workers['ready']}/{workers['replicas']}"
    assert ready["message"] == f"{workers['ready']} of {workers['replicas']} workers are ready"
    assert ready["status"] == str(workers["ready"] == workers["replicas"])


def at_rest(cluster):
    """Check that status, columns and series have no rates, but keep the results."""
    progress, printed = cluster.status["progress"], cluster.status["summary"]
    assert not [rate for rate in RATES if rate in progress]
    assert not [rate for rate in ("imagesPerSecond", "eta") if rate in printed]
    assert not [line for line in series(cluster) if "images_per_second" in line]
    assert [line for line in series(cluster) if "accuracy" in line]
    assert (progress["top1"], progress["loss"], progress["step"]) == (0.9, 0.5, 40)
    assert (printed["top1"], printed["loss"]) == ("0.9000", "0.500")
    agree(cluster)


def test_eta_is_printed_as_remaining_time(running):
    """kubectl prints a future date as <invalid>; 20 steps in 60 s leave 120 steps, 6 minutes."""
    columns = {each["name"]: each for each in crd.manifest()["spec"]["versions"][0]["additionalPrinterColumns"]}
    assert (columns["ETA"]["type"], columns["ETA"]["jsonPath"]) == ("string", ".status.summary.eta")
    assert [name for name, each in columns.items() if each["type"] == "date"] == ["Age"]
    assert running.status["summary"]["eta"] == "6m"
    assert running.status["summary"]["imagesPerSecond"] == "640"
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
def test_duration_format_matches_kubectl_age(seconds, printed):
    """The format is that of k8s.io/apimachinery/pkg/util/duration.HumanDuration."""
    assert duration(timedelta(seconds=seconds)) == printed


def test_suspended_training_shows_no_rates(running):
    """No rates are shown while the pods are being deleted and afterwards."""
    running.body["spec"]["suspend"] = True
    running.settle()
    assert running.status["phase"] == "Suspended"
    at_rest(running)
    assert condition(running, "Scheduled")["status"] == condition(running, "Running")["status"] == "False"
    assert running.status["workers"]["ready"] == 0


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        (ExitStatus.COMPLETED, "Succeeded"),
        (ExitStatus.INVALID_DATA, "Failed"),
        (ExitStatus.HUNG, "Restarting"),
        (ExitStatus.WORLD_SIZE_MISMATCH, "Restarting"),
    ],
)
def test_ended_attempt_shows_no_rates(running, status, phase):
    """No rates are shown, whether the training ended or waits for its next attempt."""
    running.end(status)
    running.settle()
    assert running.status["phase"] == phase
    at_rest(running)
    if phase != "Restarting":
        assert running.status["workers"]["ready"] == 0
        assert condition(running, "Scheduled")["status"] == "False"


def test_new_attempt_shows_no_rates_of_previous_attempt(running):
    """Rates stay unset until the ranks of the new attempt answer; the last loss stays."""
    running.end(ExitStatus.WORLD_SIZE_MISMATCH)
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


def test_termination_message_of_finished_run_sets_no_rates(running):
    """The progress in the launcher's termination message contains a rate."""
    message = {"verdict": "completed", "message": "done"}
    message["progress"] = json.loads(running.progress.model_dump_json(by_alias=True))
    running.end_pod(running.pods("launcher")[-1], 0, json.dumps(message))
    running.settle()
    at_rest(running)


def test_stalled_training_shows_no_rates(running):
    """Removing the rates does not count as progress: updatedTime stays."""
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


def test_changed_rate_without_step_is_not_progress(running):
    """Otherwise a stuck rank whose average rate decays would never be reported as Stalled."""
    before = running.status["progress"]["updatedTime"]
    running.wait(seconds=30)
    running.progress = running.progress.model_copy(update={"images_per_second": 320.0})
    running.settle()
    assert running.status["progress"]["imagesPerSecond"] == 320.0
    assert running.status["progress"]["updatedTime"] == before


def test_workers_kept_after_end_are_counted():
    """cleanPodPolicy None keeps the workers, and the status counts them."""
    cluster = Cluster(runPolicy={"cleanPodPolicy": "None"})
    cluster.run()
    cluster.end(ExitStatus.COMPLETED)
    cluster.settle()
    assert cluster.status["workers"] == {"replicas": 2, "ready": 2}
    agree(cluster)


def test_workers_column_counts_workers_if_launcher_rejected():
    """While a quota rejects the launcher, the column and the condition count the same pods."""
    cluster = Cluster()
    cluster.settle()
    cluster.ready()
    for _ in range(3):
        reject(cluster)
        assert cluster.status["workers"] == {"replicas": 2, "ready": 2}
        agree(cluster)
        cluster.wait(seconds=30)


@pytest.mark.parametrize("ready", [False, True], ids=["workers rejected", "launcher rejected"])
def test_transition_times_unchanged_while_pods_rejected(ready):
    """lastTransitionTime changes only if the stored status of the condition changes."""
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
def test_reason_cleared_when_claim_or_image_available(trouble):
    """REASON and Scheduled no longer name a claim or an image that is available."""
    cluster = Cluster(dataset={"claimName": "late"}) if trouble == "claim" else Cluster()
    cluster.settle()
    if trouble == "image":
        waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
        for pod in cluster.pods("worker"):
            pod["status"] = {"containerStatuses": [{"state": waiting}]}
        cluster.settle()
    assert cluster.status["reason"] == {"claim": "ClaimNotFound", "image": "ContainerNotStarting"}[trouble]
    cluster.claim("late", "ReadWriteMany")
    for pod in cluster.pods("worker"):
        pod.pop("status")
    cluster.settle()
    assert cluster.status["reason"] == condition(cluster, "Scheduled")["reason"] == "WorkersNotReady"
    cluster.ready()
    cluster.settle()
    assert condition(cluster, "Scheduled")["status"] == "True"
    agree(cluster)


def test_invalid_spec_shows_no_rates(running):
    """A running training whose spec becomes invalid has no rates, and Running is False."""
    plan = plan_for_name_conflict(running.training.status, running.seen, 2, "spec.workers.slots: no", running.now)
    running.apply_plan(plan)
    assert condition(running, "Running")["status"] == "False"
    assert "imagesPerSecond" not in running.status["progress"]
    assert "eta" not in running.status["summary"]
