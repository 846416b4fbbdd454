"""What a rank tells the world while it trains: Prometheus metrics, /progress, /state, and lines for people.

Every series exists from the start, so that a rate over the first minutes is right and an absent series means trouble.
"""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, TextIO, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from resnext_trainer.contract import Progress
from resnext_trainer.runtime import console, http_server
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.http_server import Response

Phase = Literal["data_wait", "compute", "allreduce", "checkpoint", "evaluation", "compile"]
Cause = Literal["overflow", "nan"]

# From a GPU's 10 ms for a small network to a CPU's minute for a large one.
_STEP_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60)


class Telemetry:
    """One rank's metrics and its progress; the methods are called from the training loop."""

    def __init__(self, rank: int = 0, out: TextIO = sys.stdout, *, terminal: bool = False) -> None:
        self.rank = rank
        self.liveness = Heartbeat(rank)
        self.port: int | None = None
        """Where `serve` answers."""
        self.current: Progress | None = None
        self.phase_seconds: dict[str, float] = dict.fromkeys(get_args(Phase), 0.0)
        """Time spent in each phase so far."""
        self._lines = console.lines(out, terminal=terminal) if rank == 0 else None
        self._registry = registry = CollectorRegistry()
        label = str(rank)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"resnext_train_{name}", text, ["rank"], registry=registry).labels(label)

        def gauge(name: str, text: str) -> Gauge:
            # Not a number until it is known: a zero would be drawn, and a timestamp of zero would raise an alarm.
            known_later = Gauge(f"resnext_train_{name}", text, ["rank"], registry=registry).labels(label)
            known_later.set(math.nan)
            return known_later

        self._images = counter("images_total", "Training images that this rank has seen.")
        self._steps = counter("steps_total", "Steps that this rank has done.")
        self._step_duration = Histogram(
            "resnext_train_step_duration_seconds",
            "Time from the end of one step to the end of the next.",
            ["rank"],
            buckets=_STEP_SECONDS,
            registry=registry,
        ).labels(label)
        self._last_step = gauge("last_step_timestamp_seconds", "When the last step ended.")
        self._loss = gauge("loss", "Training loss, the mean over the last seconds.")
        self._learning_rate = gauge("learning_rate", "Learning rate of the last step.")
        self._loss_scale = gauge("loss_scale", "Factor on the fp16 loss; 1 in every other precision.")
        self._epoch = gauge("epoch", "Epochs done, fractional.")
        self._checkpoint_success = gauge(
            "checkpoint_last_success_timestamp_seconds", "When a checkpoint last was saved."
        )
        self._checkpoint_failures = counter("checkpoint_failures_total", "Checkpoints that could not be written.")
        self._rollbacks = counter("rollbacks_total", "Returns to a checkpoint because the loss was not finite.")
        self._bad_records = counter("bad_records_total", "Records that this rank skipped because they are bad.")
        self._journal_failures = counter("journal_failures_total", "Times that log.jsonl could not be written.")
        phases = Counter("resnext_train_phase_seconds_total", "Time by phase.", ["rank", "phase"], registry=registry)
        self._phases = {phase: phases.labels(label, phase) for phase in get_args(Phase)}
        nonfinite = Counter(
            "resnext_train_nonfinite_steps_total",
            "Steps whose gradients were not finite.",
            ["rank", "cause"],
            registry=registry,
        )
        self._nonfinite = {cause: nonfinite.labels(label, cause) for cause in get_args(Cause)}
        accuracy = Gauge(
            "resnext_train_eval_accuracy_ratio", "Accuracy of the last evaluation.", ["rank", "k"], registry=registry
        )
        self._accuracy = {k: accuracy.labels(label, k) for k in ("1", "5")}
        for unknown in self._accuracy.values():
            unknown.set(math.nan)
        self._info = Info("resnext_train", "What is trained, and how.", ["rank"], registry=registry)

    def serve(self, port: int) -> int:
        """Answer /metrics, /progress and /healthz; returns the port, which the system chooses for 0."""
        self.port = http_server.serve(
            port,
            {
                "/metrics": lambda: Response(200, generate_latest(self._registry), CONTENT_TYPE_LATEST),
                "/progress": self._progress_answer,
                "/state": lambda: Response(200, self.liveness.state().as_json(), "application/json"),
                "/healthz": lambda: Response(200, b"ok\n"),
            },
        )
        return self.port

    def images(self, count: int) -> None:
        """Images of this rank's share, as they are trained on."""
        self._images.inc(count)

    def step_done(self, seconds: float) -> None:
        """A step ended, `seconds` after the one before."""
        self.liveness.step_done()
        self._steps.inc()
        self._step_duration.observe(seconds)
        self._last_step.set_to_current_time()

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Counts the time that the block takes as this phase's."""
        started = time.monotonic()
        self.liveness.beat(name)
        try:
            yield
        finally:
            self.liveness.beat()
            seconds = time.monotonic() - started
            self._phases[name].inc(seconds)
            self.phase_seconds[name] += seconds

    def loss(self, value: float) -> None:
        """Training loss."""
        self._loss.set(value)

    def learning_rate(self, value: float) -> None:
        """Learning rate of the last step."""
        self._learning_rate.set(value)

    def loss_scale(self, value: float) -> None:
        """Factor on the fp16 loss."""
        self._loss_scale.set(value)

    def nonfinite(self, cause: Cause) -> None:
        """A step was skipped: `overflow` is the price of a dynamic loss scale, `nan` is trouble."""
        self._nonfinite[cause].inc()

    def rolled_back(self) -> None:
        """The training went back to its last checkpoint."""
        self._rollbacks.inc()

    def bad_records(self, count: int) -> None:
        """So many more records were skipped."""
        self._bad_records.inc(count)

    def journal_failed(self) -> None:
        """The log could not be written; the training goes on."""
        self._journal_failures.inc()

    def accuracy(self, top1: float, top5: float) -> None:
        """What an evaluation measured, as shares."""
        self._accuracy["1"].set(top1)
        self._accuracy["5"].set(top5)

    def epoch(self, value: float) -> None:
        """Epochs done."""
        self._epoch.set(value)

    def checkpoint_saved(self, time: datetime) -> None:
        """A checkpoint is whole on disk."""
        self._checkpoint_success.set(time.timestamp())

    def checkpoint_failed(self) -> None:
        """A checkpoint could not be written; the training goes on."""
        self._checkpoint_failures.inc()

    def info(self, **labels: str) -> None:
        """architecture, precision, xla, pipeline, device, world_size."""
        self._info.labels(str(self.rank)).info(labels)

    def progress(self, progress: Progress) -> None:
        """How far the training is: for the operator, and on rank 0 for people."""
        self.current = progress
        if self._lines:
            self._lines.show(progress)

    def note(self, sentence: str) -> None:
        """A line for people; rank 0 alone speaks."""
        if self._lines:
            self._lines.note(sentence)

    def close(self) -> None:
        """Gives the terminal back."""
        if self._lines:
            self._lines.close()

    def _progress_answer(self) -> Response:
        if self.current is None:
            return Response(503, b"no step yet\n")
        return Response(200, self.current.model_dump_json(by_alias=True).encode(), "application/json")
