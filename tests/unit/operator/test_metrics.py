"""Metrics of status writes and cached trainings, and the HTTP endpoints."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import Phase, Status
from resnext_operator.domain.attempt_cause import AttemptCause
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.client import ApiError, connect, path_of
from resnext_operator.runtime.guard import LOOPS
from resnext_operator.runtime.metrics import Metrics, serve
from resnext_operator.runtime.workqueue import WorkQueue
from tests.support.fake_api import ApiServer
from tests.support.processes import free_port

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
ATTEMPTS = "resnext_operator_attempts_finished_total"
FIRST_STEP = "resnext_operator_time_to_first_step_seconds"
ACCURACY, SPEED = "resnext_training_accuracy_ratio", "resnext_training_images_per_second"


def time(seconds: float) -> str:
    """Time, in seconds after the creation of the training."""
    return (CREATED + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def attempt(number: int, cause: str | None = None) -> Manifest:
    """An attempt that ended with a cause, or is running."""
    ended = {"endTime": time(60 * number), "cause": cause} if cause else {}
    return {"number": number, "startTime": time(60 * number - 60), **ended}


def progress(step: int, **more: float) -> Manifest:
    return {"step": step, "steps": 160, "epochs": 8, "updatedTime": time(step), **more}


def without_process(exposition: str) -> str:
    """The exposition without the operator's own memory and CPU time."""
    return "".join(line for line in exposition.splitlines(keepends=True) if "process_" not in line)


class Operator:
    """The metrics of a replica with cache and queue."""

    def __init__(self, *, leading: bool = True) -> None:
        self.cache, self.queue = Cache(), WorkQueue()
        self.metrics = Metrics(self.cache, self.queue.__len__)
        self.metrics.leading = leading

    def writes(self, before: Manifest, after: Manifest, seconds: float = 90) -> None:
        """Write a status, a number of seconds after the creation of the training."""
        self.metrics.recorded(
            Status.parse(before), Status.parse(after), CREATED.isoformat(), CREATED + timedelta(seconds=seconds)
        )

    def training(self, name: str, status: Any = None, **spec: Any) -> Manifest:
        """Add a training to the cache."""
        metadata = {"namespace": "lab", "name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
        body: Manifest = {"kind": KIND, "metadata": metadata, "spec": spec, "status": status}
        self.cache.upsert(body)
        return body

    @property
    def text(self) -> str:
        """Result of a scrape."""
        return generate_latest(self.metrics.registry).decode()

    def samples(self, name: str) -> list[Sample]:
        families = text_string_to_metric_families(self.text)
        return [sample for family in families for sample in family.samples if sample.name == name]

    def values(self, name: str, label: str) -> dict[str, float]:
        """Nonzero values of a metric by one of its labels."""
        return {each.labels[label]: each.value for each in self.samples(name) if each.value}

    def value(self, name: str, **labels: str) -> float:
        (found,) = (each.value for each in self.samples(name) if labels.items() <= each.labels.items())
        return found


@pytest.fixture
def operator() -> Operator:
    return Operator()


class TestAttempts:
    def test_metrics_ended_attempt_counted_by_cause(self, operator: Operator) -> None:
        """A status write that ends an attempt adds 1 to its cause and to no other."""
        operator.writes({"attempts": [attempt(1)]}, {"attempts": [attempt(1, "hung")]})
        assert operator.values(ATTEMPTS, "cause") == {"hung": 1}

    def test_metrics_attempt_of_earlier_write_not_counted(self, operator: Operator) -> None:
        """Ended attempts stay in the status; each one is counted by the write that records its end."""
        first, second = attempt(1, "hung"), attempt(2, "crashed")
        operator.writes({"attempts": [first, attempt(2)]}, {"attempts": [first, second]})
        operator.writes({"attempts": [first, second]}, {"attempts": [first, second, attempt(3)]})
        assert operator.values(ATTEMPTS, "cause") == {"crashed": 1}

    def test_metrics_two_attempts_of_same_cause_counted_twice(self, operator: Operator) -> None:
        """Two attempts that one write records count twice, even with the same cause."""
        operator.writes({}, {"attempts": [attempt(1, "disrupted"), attempt(2, "disrupted")]})
        assert operator.values(ATTEMPTS, "cause") == {"disrupted": 2}

    def test_metrics_attempt_under_way_not_counted(self, operator: Operator) -> None:
        """An attempt that starts has not ended."""
        operator.writes({}, {"attempts": [attempt(1)]})
        assert operator.values(ATTEMPTS, "cause") == {}

    def test_metrics_attempt_dropped_from_status_not_counted(self, operator: Operator) -> None:
        """The status keeps only the last attempts."""
        operator.writes({"attempts": [attempt(1, "hung"), attempt(2)]}, {"attempts": [attempt(2)]})
        assert operator.values(ATTEMPTS, "cause") == {}

    def test_metrics_stored_unknown_cause_adds_no_series(self, operator: Operator) -> None:
        """A user who may write the status cannot create series: a stored cause is not counted again."""
        before = operator.text
        odd = {"attempts": [attempt(1, "x" * 200), attempt(2)]}
        operator.writes(odd, odd | {"phase": "Running"})
        assert without_process(operator.text) == without_process(before)

    def test_metrics_all_causes_and_loops_start_at_zero(self, operator: Operator) -> None:
        """Without a first sample of 0, increase() misses the first event of a series."""
        assert {each.labels["cause"] for each in operator.samples(ATTEMPTS)} == {each.value for each in AttemptCause}
        skipped = operator.samples("resnext_operator_skipped_objects_total")
        assert {each.labels["loop"]: each.value for each in skipped} == dict.fromkeys(LOOPS, 0.0)


class TestFirstStep:
    def test_metrics_first_step_observed_since_creation(self, operator: Operator) -> None:
        """The write with the first step adds the seconds since the training was created."""
        operator.writes({"progress": progress(0)}, {"progress": progress(3)}, seconds=75)
        assert operator.value(f"{FIRST_STEP}_count") == 1
        assert operator.value(f"{FIRST_STEP}_sum") == 75
        assert operator.value(f"{FIRST_STEP}_bucket", le="60.0") == 0
        assert operator.value(f"{FIRST_STEP}_bucket", le="90.0") == 1

    def test_metrics_later_step_is_not_first_step(self, operator: Operator) -> None:
        """A later step is not observed again after a restart, when progress starts at the checkpoint."""
        operator.writes({"progress": progress(3)}, {"progress": progress(20)})
        operator.writes({"progress": progress(20)}, {"progress": progress(10)})
        assert operator.value(f"{FIRST_STEP}_count") == 0

    def test_metrics_progress_without_step_is_not_first_step(self, operator: Operator) -> None:
        """Only a completed step ends the time to the first step."""
        operator.writes({}, {"phase": "Starting"})
        operator.writes({}, {"progress": progress(0)})
        assert operator.value(f"{FIRST_STEP}_count") == 0


ODD = {
    "a text": "x",
    "a list": ["x"],
    "a list as phase": {"phase": ["x"]},
    "an unknown phase": {"phase": "Dancing", "attempts": {"number": 1}},
    "a number as progress": {"progress": 3},
    "wrong types": {"progress": {**progress(0), "top1": "0.5", "top5": [], "imagesPerSecond": True}},
    "no finite numbers": {"progress": progress(0, top1=math.nan, top5=-math.inf, imagesPerSecond=math.inf)},
    "too large for a float": {"progress": {**progress(0), "imagesPerSecond": 10**400}},
    "a negative step": {"progress": progress(-1, imagesPerSecond=1.0)},
}


class TestTrainings:
    def test_metrics_trainings_counted_by_phase(self, operator: Operator) -> None:
        """Every phase has a series; a training without a status is pending."""
        operator.training("new")
        operator.training("one", {"phase": "Running"})
        operator.training("two", {"phase": "Running"})
        phases = {each.labels["phase"]: each.value for each in operator.samples("resnext_operator_trainings")}
        assert phases == dict.fromkeys(Phase, 0.0) | {"Pending": 1, "Running": 2}

    def test_metrics_accuracy_and_rate_are_those_of_status(self, operator: Operator) -> None:
        """Series carry namespace and name of the training."""
        operator.training("flowers", {"progress": progress(3, top1=0.5, top5=0.75, imagesPerSecond=640.0)})
        assert operator.value(ACCURACY, namespace="lab", training="flowers", k="1") == 0.5
        assert operator.value(ACCURACY, namespace="lab", training="flowers", k="5") == 0.75
        assert operator.value(SPEED, namespace="lab", training="flowers") == 640

    def test_metrics_unset_accuracy_and_rate_have_no_series(self, operator: Operator) -> None:
        """0 would look like a training that learns nothing; a real accuracy of 0 is exported."""
        operator.training("flowers", {"progress": progress(3, top1=0.0)})
        assert operator.samples(SPEED) == []
        assert [(each.labels["k"], each.value) for each in operator.samples(ACCURACY)] == [("1", 0.0)]

    def test_metrics_status_change_replaces_value(self, operator: Operator) -> None:
        """A scrape reads the currently cached status."""
        body = operator.training("flowers", {"phase": "Running", "progress": progress(3, imagesPerSecond=640.0)})
        metadata = {**body["metadata"], "resourceVersion": "2"}
        operator.cache.upsert({**body, "metadata": metadata, "status": {"phase": "Succeeded", "progress": progress(9)}})
        assert operator.values("resnext_operator_trainings", "phase") == {"Succeeded": 1}
        assert operator.samples(SPEED) == []

    def test_metrics_deleted_trainings_leave_no_series(self, operator: Operator) -> None:
        """The number of series does not grow with the number of past trainings."""
        before = operator.text
        status = {"phase": "Running", "progress": progress(3, top1=0.5, top5=0.75, imagesPerSecond=640.0)}
        bodies = [operator.training(f"flowers-{number}", status) for number in range(30)]
        assert len(operator.samples(SPEED)) == 30
        for body in bodies:
            operator.cache.remove(body)
        assert without_process(operator.text) == without_process(before)

    def test_metrics_training_of_other_manager_not_counted(self, operator: Operator) -> None:
        """spec.managedBy names another controller, which reports it."""
        operator.training("foreign", {"phase": "Running"}, managedBy="kueue.x-k8s.io/multikueue")
        assert operator.values("resnext_operator_trainings", "phase") == {}

    def test_metrics_results_survive_end_and_rates_do_not(self, operator: Operator) -> None:
        """Until the training is deleted, its accuracy, loss, steps and goodput are exported."""
        done = progress(160, loss=0.25, top1=0.7, top5=0.9, bestTop1=0.75)
        goodput = {"ratio": 0.9, "seconds": {"steps": 90.0, "startup": 10.0}}
        operator.training(
            "flowers",
            {
                **{"phase": "Succeeded", "reason": "Completed", "progress": done, "goodput": goodput},
                **{"attempts": [attempt(1, "completed")], "completionTime": time(60), "failures": 2, "disruptions": 1},
            },
        )
        names = {"namespace": "lab", "training": "flowers"}
        expected = {
            **{"loss": 0.25, "best_accuracy_ratio": 0.75, "steps_completed": 160, "steps": 160},
            **{"goodput_ratio": 0.9, "attempts": 1, "failures": 2, "disruptions": 1},
            "completion_timestamp_seconds": CREATED.timestamp() + 60,
        }
        assert {name: operator.value(f"resnext_training_{name}", **names) for name in expected} == expected
        assert operator.values("resnext_training_wall_seconds", "activity") == {"steps": 90, "startup": 10}
        running = ("images_per_second", "estimated_completion_timestamp_seconds", "stalled", "start_timestamp_seconds")
        for rate in running:
            assert operator.samples(f"resnext_training_{rate}") == []

    def test_metrics_ended_training_follows_its_status(self, operator: Operator) -> None:
        """The samples of an ended training are kept until the cache has another object, such as after a new start."""
        body = operator.training("flowers", {"phase": "Failed", "failures": 2})
        assert operator.value("resnext_training_failures") == operator.value("resnext_training_failures") == 2
        metadata = {**body["metadata"], "uid": "another", "resourceVersion": "2"}
        operator.cache.remove(body)
        operator.cache.upsert({**body, "metadata": metadata, "status": {"phase": "Running", "failures": 1}})
        assert operator.value("resnext_training_failures") == 1
        assert operator.values("resnext_operator_trainings", "phase") == {"Running": 1}

    @pytest.mark.parametrize(("reason", "label"), [("Unschedulable", "Unschedulable"), ("x" * 99, ""), (None, "")])
    def test_metrics_phase_has_known_reason(self, operator: Operator, reason: str | None, label: str) -> None:
        """A user who may write the status cannot create labels."""
        operator.training("flowers", {"phase": "Pending", "reason": reason})
        (sample,) = operator.samples("resnext_training_status_phase")
        assert (sample.labels["phase"], sample.labels["reason"], sample.value) == ("Pending", label, 1)

    @pytest.mark.parametrize("stalled", [True, False])
    def test_metrics_stalled_is_condition_of_attempt(self, operator: Operator, stalled: bool) -> None:
        """1 while the condition Stalled of a running attempt is true."""
        condition = {"type": "Stalled", "status": str(stalled), "reason": "Stalled", "message": ""}
        condition["lastTransitionTime"] = time(0)
        operator.training("flowers", {"phase": "Running", "attempts": [attempt(1)], "conditions": [condition]})
        assert operator.value("resnext_training_stalled") == stalled

    @pytest.mark.parametrize("written", ["2026-01-01T00:01:00Z", "2026-01-01T01:01:00+01:00", "2026-01-01T00:01:00"])
    def test_metrics_checkpoint_time_is_unix_time(self, operator: Operator, written: str) -> None:
        """The trainer writes the time with any offset; without one it is UTC."""
        operator.training("flowers", {"checkpoint": {"step": 1, "time": written, "path": "/checkpoints"}})
        assert operator.value("resnext_training_checkpoint_timestamp_seconds") == CREATED.timestamp() + 60

    def test_metrics_standby_exports_no_trainings(self) -> None:
        """A sum over two replicas would count each training twice."""
        standby = Operator(leading=False)
        standby.training("flowers", {"phase": "Running", "progress": progress(3, top1=0.5, imagesPerSecond=640.0)})
        assert [standby.samples(name) for name in ("resnext_operator_trainings", ACCURACY, SPEED)] == [[], [], []]
        assert standby.value("leader_election_master_status") == 0
        standby.metrics.leading = True
        assert standby.values("resnext_operator_trainings", "phase") == {"Running": 1}
        assert standby.value("leader_election_master_status") == 1

    @pytest.mark.parametrize("status", ODD.values(), ids=ODD)
    def test_metrics_odd_status_counts_as_pending(self, operator: Operator, status: Any) -> None:
        """Values that cannot be parsed count as unset; the scrape succeeds and shows other trainings."""
        operator.training("odd", status)
        operator.training("good", {"phase": "Running", "progress": progress(3, imagesPerSecond=640.0)})
        assert operator.values("resnext_operator_trainings", "phase") == {"Pending": 1, "Running": 1}
        assert operator.values(SPEED, "training") == {"good": 640}
        assert operator.samples(ACCURACY) == []
        operator.writes(status, {"phase": "Running", "progress": progress(1)})
        assert operator.value(f"{FIRST_STEP}_count") == 1

    def test_metrics_only_training_series_name_a_training(self, operator: Operator) -> None:
        """Only series that end with the training have labels with names of users' objects."""
        operator.training("flowers", {"phase": "Running", "progress": progress(3, top1=0.5, imagesPerSecond=640.0)})
        operator.writes({}, {"attempts": [attempt(1, "hung")]})
        operator.metrics.requested("GET", "200")
        families = text_string_to_metric_families(operator.text)
        labels = {name for family in families for sample in family.samples for name in sample.labels}
        own = {"name", "phase", "cause", "loop", "verb", "code", "le"}
        assert labels == own | {"namespace", "training", "k", "reason", "activity"}
        named = {
            family.name
            for family in text_string_to_metric_families(operator.text)
            for sample in family.samples
            if "flowers" in sample.labels.values()
        }
        assert named > {ACCURACY, SPEED}
        assert all(name.startswith("resnext_training_") for name in named)


def test_metrics_queue_depth_counts_waiting_trainings() -> None:
    """A training that is being reconciled is not counted, unless it is queued again in the meantime."""

    async def scenario() -> list[float]:
        operator, found = Operator(), []
        for name in ("a", "b", "a"):
            operator.queue.add(("lab", name))
        found.append(operator.value("workqueue_depth"))
        key = await operator.queue.get()
        found.append(operator.value("workqueue_depth"))
        operator.queue.add(key)
        found.append(operator.value("workqueue_depth"))
        return found

    assert asyncio.run(scenario()) == [2, 1, 2]


def test_metrics_requests_counted_by_verb_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a real client to a real server are counted. The code is `none` without a response."""

    async def scenario() -> dict[tuple[str, str], float]:
        operator, server = Operator(), ApiServer("lab")
        async with server.serve(tmp_path) as config:
            monkeypatch.setenv("KUBECONFIG", str(config))
            async with connect(1, operator.metrics.requested) as client:
                await client.request("GET", path_of("Pod", "lab"))
                for path in (path_of("Pod", "lab", "x"), path_of("Pod", "lab", "y")):
                    with pytest.raises(ApiError):
                        await client.request("DELETE", path)
                await server.stop()
                with pytest.raises(aiohttp.ClientError):
                    await client.request("GET", path_of("Pod", "lab"))
        requests = operator.samples("resnext_operator_api_requests_total")
        return {(each.labels["verb"], each.labels["code"]): each.value for each in requests}

    assert asyncio.run(scenario()) == {("GET", "200"): 1, ("DELETE", "404"): 2, ("GET", "none"): 1}


def test_serve_answers_probes_and_scrapes() -> None:
    """/healthz immediately, /readyz when the caches are synced, /metrics in Prometheus' format."""

    async def scenario() -> list[tuple[str, int, str, str]]:
        operator, found = Operator(), []
        operator.training("flowers", {"phase": "Running"})
        filled = False
        port = free_port()
        runner = await serve(operator.metrics, port, lambda: filled)
        try:
            address = f"http://127.0.0.1:{port}"
            async with aiohttp.ClientSession() as session:
                for path in ("/healthz", "/readyz", "/readyz", "/metrics", "/"):
                    async with session.get(address + path) as answer:
                        found.append((path, answer.status, answer.headers["Content-Type"], await answer.text()))
                    filled = path == "/readyz"
        finally:
            await runner.cleanup()
        return found

    *probes, (_, code, content, text), root = asyncio.run(scenario())
    assert [each[:2] for each in probes] == [("/healthz", 200), ("/readyz", 503), ("/readyz", 200)]
    assert root[1] == 404
    assert (code, content.partition(";")[0]) == (200, "text/plain")
    assert 'resnext_operator_trainings{phase="Running"} 1.0' in text
    assert {family.name for family in text_string_to_metric_families(text)} >= {
        "resnext_operator_trainings",
        FIRST_STEP,
    }
