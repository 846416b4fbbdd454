"""Metrics of the operator, and the HTTP server that exports them."""

from collections.abc import Callable
from datetime import datetime

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from resnext_operator.api.status import Status
from resnext_operator.domain.attempt_cause import AttemptCause
from resnext_operator.rendering.names import OPERATOR
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.guard import LOOPS, Guard
from resnext_operator.runtime.training_metrics import TrainingCollector


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
        ProcessCollector(registry=registry)
        registry.register(TrainingCollector(cache, lambda: self.leading, self.guard))

    def requested(self, verb: str, code: str) -> None:
        self.requests.labels(verb, code).inc()

    def recorded(self, before: Status, after: Status, created: str, now: datetime) -> None:
        """Count the attempts and the first step that a status update recorded."""
        for attempt in _ended(after) - _ended(before):
            self.attempts.labels(attempt[1]).inc()
        if not _steps(before) and _steps(after):
            self.first_step.observe((now - datetime.fromisoformat(created)).total_seconds())


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
