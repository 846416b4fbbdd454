"""Prometheus metrics of one rank."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal, get_args

from prometheus_client import Info, generate_latest

from resnext_trainer.runtime.gpu_metrics import open_gpu
from resnext_trainer.runtime.process_metrics import ProcessMetrics
from resnext_trainer.runtime.rank_registry import RankRegistry
from resnext_trainer.runtime.read_metrics import ReadMetrics

Phase = Literal[
    "data_wait",
    "compute",
    "allreduce",
    "optimizer",
    "checkpoint",
    "evaluation",
    "compile",
    "rollback",
    "other",
]
Cause = Literal["overflow", "nan"]

# From 10 ms (small network on a GPU) to a minute (large network on a CPU).
_STEP_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60)


class Metrics:
    """Counters and gauges, updated by the training loop."""

    def __init__(self, rank: int = 0) -> None:
        self._registry = registry = RankRegistry(rank)
        self._images = registry.counter("images_total", "Training images processed by this rank.")
        self._steps = registry.counter("steps_total", "Steps completed by this rank.")
        self._step_duration = registry.histogram(
            "step_duration_seconds", "Time from the end of one step to the end of the next.", _STEP_SECONDS
        )
        self._last_step = registry.gauge("last_step_timestamp_seconds", "Unix time of the end of the last step.")
        self._loss = registry.gauge("loss", "Mean training loss over the last 10 seconds.")
        self._learning_rate = registry.gauge("learning_rate", "Learning rate of the last step.")
        self._loss_scale = registry.gauge("loss_scale", "fp16 loss scale; 1 in other precisions.")
        self._epoch = registry.gauge("epoch", "Number of completed epochs, including the fraction of the current one.")
        self._checkpoint_success = registry.gauge(
            "checkpoint_last_success_timestamp_seconds", "Unix time of the last successful checkpoint."
        )
        self._checkpoint_interval = registry.gauge(
            "checkpoint_interval_seconds", "Longest expected time between two checkpoints, not counting evaluations."
        )
        self._checkpoint_failures = registry.counter(
            "checkpoint_failures_total", "Checkpoints that could not be written."
        )
        self._rollbacks = registry.counter("rollbacks_total", "Rollbacks to a checkpoint after a non-finite loss.")
        self._bad_records = registry.counter("bad_records_total", "Unusable records skipped by this rank.")
        self._log_write_failures = registry.counter("log_write_failures_total", "Failed writes to log.jsonl.")
        self._phases = registry.counters(
            "phase_seconds_total",
            "Wall time per phase since the start of the process; compute, allreduce and optimizer are estimates.",
            "phase",
            get_args(Phase),
        )
        self._nonfinite = registry.counters(
            "nonfinite_steps_total", "Steps with non-finite gradients.", "cause", get_args(Cause)
        )
        self._accuracy = registry.gauges("eval_accuracy_ratio", "Accuracy of the last evaluation.", "k", ("1", "5"))
        self._info = Info(
            "resnext_trainer",
            "Model, precision, device and number of ranks of the training.",
            ["rank"],
            registry=registry,
        )
        registry.register(ProcessMetrics(registry.rank))
        self._reads = ReadMetrics(registry.rank)
        registry.register(self._reads)

    def watch_reads(self, count: Callable[[], tuple[int, int]]) -> None:
        """Reports the reads of a dataset. count: returns the number of requests so far, and their bytes."""
        self._reads.count = count

    def watch_gpu(self, device: int) -> None:
        """Adds the metrics of a GPU, if NVML can read them. device: its index among the GPUs of this pod."""
        if gpu := open_gpu(self._registry.rank, device):
            self._registry.register(gpu)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def value(self, name: str, **labels: str) -> float | None:
        """Value of one series of this rank, such as `loss` or `steps_total`; None if it does not exist."""
        return self._registry.value(name, **labels)

    def images(self, count: int) -> None:
        """Counts training images of this rank."""
        self._images.inc(count)

    def step_done(self, seconds: float) -> None:
        """Counts a step that ended `seconds` after the previous one."""
        self._steps.inc()
        self._step_duration.observe(seconds)
        self._last_step.set_to_current_time()

    def phase_done(self, name: Phase, seconds: float) -> None:
        """Adds the duration of a phase."""
        self._phases[name].inc(seconds)

    def loss(self, value: float) -> None:
        """Sets the training loss."""
        self._loss.set(value)

    def learning_rate(self, value: float) -> None:
        """Sets the learning rate of the last step."""
        self._learning_rate.set(value)

    def loss_scale(self, value: float) -> None:
        """Sets the fp16 loss scale."""
        self._loss_scale.set(value)

    def nonfinite(self, cause: Cause) -> None:
        """Counts a skipped step: `overflow` is normal with a dynamic loss scale, `nan` is a problem."""
        self._nonfinite[cause].inc()

    def rolled_back(self) -> None:
        """Counts a rollback to the last checkpoint."""
        self._rollbacks.inc()

    def bad_records(self, count: int) -> None:
        """Counts skipped records."""
        self._bad_records.inc(count)

    def log_write_failed(self) -> None:
        """Counts a failed write to log.jsonl; the training continues."""
        self._log_write_failures.inc()

    def accuracy(self, top1: float, top5: float) -> None:
        """Sets the accuracy of the last evaluation, from 0 to 1."""
        self._accuracy["1"].set(top1)
        self._accuracy["5"].set(top5)

    def epoch(self, value: float) -> None:
        """Sets the fractional number of epochs done."""
        self._epoch.set(value)

    def checkpoint_saved(self, time: datetime) -> None:
        """Sets the time of the last complete checkpoint."""
        self._checkpoint_success.set(time.timestamp())

    def checkpoint_interval(self, seconds: float) -> None:
        """Sets the longest expected time between two checkpoints."""
        self._checkpoint_interval.set(seconds)

    def checkpoint_failed(self) -> None:
        """Counts a checkpoint that could not be written; the training continues."""
        self._checkpoint_failures.inc()

    def info(self, **labels: str) -> None:
        """Sets the labels architecture, precision, xla, pipeline, device and world_size."""
        self._info.labels(self._registry.rank).info(labels)
