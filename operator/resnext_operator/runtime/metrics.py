"""Metrics of the operator. The series of trainings are read from the cache, so they end when a training is deleted."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import datetime

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from resnext_operator.api.groupversion import CONTROLLER_NAME
from resnext_operator.api.status import Phase, Status
from resnext_operator.domain.attempt_cause import AttemptCause
from resnext_operator.rendering.names import OPERATOR
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.guard import LOOPS, Guard
from resnext_operator.runtime.unstructured import key_of, managed_by


class Metrics:
    """Metrics of this replica."""

    def __init__(self, cache: Cache, depth: Callable[[], int]) -> None:
        self.leading = False
        self.registry = registry = CollectorRegistry()
        self.reconciled = Histogram(
            "resnext_operator_reconcile_duration_seconds", "Duration of one reconciliation.", registry=registry
        )
        self.errors = Counter(
            "resnext_operator_reconcile_errors_total", "Reconciliations that failed.", registry=registry
        )
        self.requests = Counter(
            "resnext_operator_api_requests_total", "Requests to the API server.", ["verb", "code"], registry=registry
        )
        self.attempts = Counter(
            "resnext_operator_attempts_finished_total", "Attempts that ended, by cause.", ["cause"], registry=registry
        )
        for cause in AttemptCause:
            self.attempts.labels(cause.value)
        self.skipped = Counter(
            "resnext_operator_skipped_objects_total",
            "Objects that could not be handled and were skipped, by loop.",
            ["loop"],
            registry=registry,
        )
        for loop in LOOPS:
            self.skipped.labels(loop)
        self.guard = Guard(lambda loop: self.skipped.labels(loop).inc())
        self.first_step = Histogram(
            "resnext_operator_time_to_first_step_seconds",
            "Seconds from a training's creation to its first step.",
            buckets=(10, 20, 30, 45, 60, 90, 120, 300, 600, 1800, 3600),
            registry=registry,
        )
        Gauge("workqueue_depth", "Trainings waiting in the work queue.", ["name"], registry=registry).labels(
            "resnexttraining"
        ).set_function(depth)
        Gauge("leader_election_master_status", "1 if this replica is the leader.", ["name"], registry=registry).labels(
            OPERATOR
        ).set_function(lambda: float(self.leading))
        registry.register(_Trainings(cache, lambda: self.leading, self.guard))

    def requested(self, verb: str, code: str) -> None:
        self.requests.labels(verb, code).inc()

    def recorded(self, before: Status, after: Status, created: str, now: datetime) -> None:
        """Count the attempts and the first step that a status update recorded."""
        for attempt in _ended(after) - _ended(before):
            self.attempts.labels(attempt[1]).inc()
        if not _steps(before) and _steps(after):
            self.first_step.observe((now - datetime.fromisoformat(created)).total_seconds())


class _Trainings(Collector):
    """Series of trainings, collected at each scrape. Only the leader reports them, so that none is counted twice."""

    def __init__(self, cache: Cache, leading: Callable[[], bool], guard: Guard) -> None:
        self._cache, self._leading, self._guard = cache, leading, guard

    def collect(self) -> Iterator[Metric]:
        phases = GaugeMetricFamily("resnext_operator_trainings", "Trainings by phase.", labels=["phase"])
        accuracy = GaugeMetricFamily(
            "resnext_training_accuracy_ratio",
            "Accuracy of a training's last evaluation.",
            labels=["namespace", "training", "k"],
        )
        speed = GaugeMetricFamily(
            "resnext_training_images_per_second",
            "Images per second over all ranks of a training.",
            labels=["namespace", "training"],
        )
        if self._leading():
            tally: Tally[str] = Tally()
            for training in self._cache.trainings():
                if managed_by(training) != CONTROLLER_NAME:
                    continue
                with self._guard.each("metrics", key_of(training)):
                    names, status = list(key_of(training)), Status.parse(training.get("status"))
                    tally[status.phase or Phase.PENDING] += 1
                    if progress := status.progress:
                        for k, ratio in (("1", progress.top1), ("5", progress.top5)):
                            if ratio is not None:
                                accuracy.add_metric([*names, k], ratio)
                        if progress.images_per_second is not None:
                            speed.add_metric(names, progress.images_per_second)
            for phase in Phase:
                phases.add_metric([phase.value], tally[phase.value])
        yield from (phases, accuracy, speed)


def _ended(status: Status) -> set[tuple[int, str]]:
    return {(each.number, each.cause or AttemptCause.CRASHED) for each in status.attempts if each.ended}


def _steps(status: Status) -> int:
    return status.progress.step if status.progress else 0


async def serve(metrics: Metrics, port: int, ready: Callable[[], bool]) -> web.AppRunner:
    """Serve /metrics, /healthz and /readyz until the runner is cleaned up. ready: whether the caches are synced."""

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready() else web.Response(text="caches not synced\n", status=503)

    app = web.Application()
    app.add_routes([web.get("/metrics", exposition), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
