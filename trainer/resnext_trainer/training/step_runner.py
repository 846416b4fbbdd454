"""Profiles, checks and counts the steps of one rank."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.data.input_pipeline import Batch
from resnext_trainer.model.train_step import RankRequests, StepResult
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.overlapped_steps import OverlappedSteps
from resnext_trainer.training.profiler import Profiler
from resnext_trainer.training.throughput import MovingThroughput

# A dynamic loss scale falls from 2^15 to its floor of 1 in 15 halvings, so more overflows have another cause.
_MAX_OVERFLOWS_IN_A_ROW = 25


class NotFiniteError(Exception):
    """A loss or a weight is not finite. Raised on every rank, because the values are averaged over the ranks."""


class StepRunner:
    """Runs the steps of one rank."""

    def __init__(
        self,
        config: Training,
        plan: EpochPlan,
        steps: OverlappedSteps,
        metrics: Metrics,
        heartbeat: Heartbeat,
        profiler: Profiler | None,
    ) -> None:
        self._config, self._plan, self._steps = config, plan, steps
        self._metrics, self._heartbeat, self._profiler = metrics, heartbeat, profiler
        self.throughput = MovingThroughput()
        self._overflows = 0

    def run(
        self, batches: Iterator[Batch], position: TrainingPosition, rate: float, requests: Callable[[], RankRequests]
    ) -> StepResult:
        """Runs the step after `position`. rate: learning rate. requests: called right before the all-reduce."""
        with self._profiler.step(position.step + 1) if self._profiler else nullcontext():
            return self._steps.run(batches, position, rate, requests)

    def check_finite(self, outcome: StepResult, step: int) -> None:
        """Raises NotFiniteError if the loss is not finite and an overflow of the dynamic loss scale does not explain
        it."""
        if outcome.finite and math.isfinite(outcome.loss):
            self._overflows = 0
            return
        scaled = self._config.precision.mode == "fp16"
        self._metrics.nonfinite("overflow" if scaled else "nan")
        self._overflows += 1
        if not scaled or self._overflows > _MAX_OVERFLOWS_IN_A_ROW:
            raise NotFiniteError(f"the loss at step {step} is not finite ({outcome.loss})")

    def record(self, outcome: StepResult, position: TrainingPosition, rate: float, seconds: float) -> None:
        """Updates metrics and heartbeat after the step that ended at `position` and took `seconds`."""
        metrics, config = self._metrics, self._config
        self.throughput.add(self._plan.global_batch, seconds, outcome.loss)
        metrics.images(config.batch_size * config.gradient_accumulation)
        metrics.learning_rate(rate)
        metrics.loss(self.throughput.loss or outcome.loss)
        metrics.loss_scale(outcome.loss_scale)
        metrics.epoch(self._plan.epochs_done(position))
        self._heartbeat.step_done()
        metrics.step_done(seconds)

    def restart(self) -> None:
        """Discards the measurements of steps before a rollback, and the gradients of the step after them."""
        self.throughput, self._overflows = MovingThroughput(), 0
        self._steps.discard()

    def close(self) -> None:
        """Writes an unfinished profile."""
        if self._profiler:
            self._profiler.close()
