"""Telemetry of one rank: metrics, console, heartbeat, and the HTTP server that publishes them."""

import sys
from dataclasses import dataclass
from typing import TextIO

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from resnext_trainer.contract import Progress
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.http_server import HttpServer, Response
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer, process_start


@dataclass(frozen=True)
class Telemetry:
    """The parts of the telemetry; callers pass on only the parts that are needed."""

    metrics: Metrics
    console: Console
    heartbeat: Heartbeat
    phases: PhaseTimer
    server: HttpServer
    """Publishes /metrics, /progress, /state and /healthz after `start`."""

    def timed(self, progress: Progress) -> Progress:
        """The progress with the seconds spent in each phase so far."""
        return _timed(progress, self.phases)


def _timed(progress: Progress, phases: PhaseTimer) -> Progress:
    seconds = {name: round(spent, 3) for name, spent in phases.totals().items()}
    return progress.model_copy(update={"phase_seconds": seconds})


def compose(
    metrics: Metrics, console: Console, heartbeat: Heartbeat, *, process_started: float | None = None
) -> Telemetry:
    """Connects the parts; does not start the server.

    process_started: time.monotonic() at the start of the process, from which on phases are counted; None for now.
    """
    phases = PhaseTimer(metrics, heartbeat, process_started)

    def progress() -> Response:
        if heartbeat.progress is None:
            return Response(503, b"no step yet\n")
        return Response(
            200, _timed(heartbeat.progress, phases).model_dump_json(by_alias=True).encode(), "application/json"
        )

    def exposition() -> Response:
        phases.totals()
        return Response(200, metrics.exposition(), CONTENT_TYPE_LATEST)

    server = HttpServer(
        {
            "/metrics": exposition,
            "/progress": progress,
            "/state": lambda: Response(200, heartbeat.state().as_json(), "application/json"),
            "/healthz": lambda: Response(200, b"ok\n"),
        }
    )
    return Telemetry(metrics, console, heartbeat, phases, server)


def for_rank(rank: int = 0, out: TextIO = sys.stdout, *, terminal: bool = False) -> Telemetry:
    """Creates the telemetry of a rank, with console output to `out` or, if `terminal`, as a progress bar."""
    console = Console(rank, out, terminal=terminal)
    return compose(Metrics(rank), console, Heartbeat(rank), process_started=process_start())
