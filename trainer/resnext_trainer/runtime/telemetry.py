"""The telemetry of one rank, put together: metrics, console, heartbeat, and the HTTP server that publishes them."""

import sys
from dataclasses import dataclass
from typing import TextIO

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.http_server import HttpServer, Response
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer


@dataclass(frozen=True)
class Telemetry:
    """The parts of the telemetry. A caller takes only the part that it uses."""

    metrics: Metrics
    console: Console
    heartbeat: Heartbeat
    phases: PhaseTimer
    server: HttpServer
    """Publishes /metrics, /progress, /state and /healthz once it is started."""


def compose(metrics: Metrics, console: Console, heartbeat: Heartbeat) -> Telemetry:
    """Connects the parts of a rank; starts nothing."""

    def progress() -> Response:
        if heartbeat.progress is None:
            return Response(503, b"no step yet\n")
        return Response(200, heartbeat.progress.model_dump_json(by_alias=True).encode(), "application/json")

    server = HttpServer(
        {
            "/metrics": lambda: Response(200, metrics.exposition(), CONTENT_TYPE_LATEST),
            "/progress": progress,
            "/state": lambda: Response(200, heartbeat.state().as_json(), "application/json"),
            "/healthz": lambda: Response(200, b"ok\n"),
        }
    )
    return Telemetry(metrics, console, heartbeat, PhaseTimer(metrics, heartbeat), server)


def for_rank(rank: int = 0, out: TextIO = sys.stdout, *, terminal: bool = False) -> Telemetry:
    """The telemetry of a rank that writes for people to `out`, or to the terminal."""
    return compose(Metrics(rank), Console(rank, out, terminal=terminal), Heartbeat(rank))
