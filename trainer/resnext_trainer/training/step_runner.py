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
        self._unpublished: list[float] = []
        """Durations of the steps since the last `publish`, in seconds."""
        self._loss_scale, self._rate = 1.0, 0.0

    def run(
        self,
        batches: Iterator[Batch],
        position: TrainingPosition,
        following: TrainingPosition,
        rate: float,
        requests: Callable[[], RankRequests],
    ) -> StepResult:
        """Runs the step from `position` to `following`, as `OverlappedSteps.run`."""
        profiler = self._profiler
        with profiler.step(following.step) if profiler and profiler.is_due else nullcontext():
            return self._steps.run(batches, position, following, rate, requests)

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

    def record(self, outcome: StepResult, rate: float, seconds: float) -> None:
        """Records the step that has just ended and took `seconds`; `publish` updates the metrics."""
        self.throughput.add(self._plan.global_batch, seconds, outcome.loss)
        self._unpublished.append(seconds)
        self._loss_scale, self._rate = outcome.loss_scale, rate
        self._heartbeat.step_done()

    def publish(self, position: TrainingPosition) -> None:
        """Updates the metrics with the steps since the last call. position: the end of the last step."""
        if not self._unpublished:
            return
        metrics, config = self._metrics, self._config
        metrics.images(len(self._unpublished) * config.batch_size * config.gradient_accumulation)
        metrics.learning_rate(self._rate)
        if (loss := self.throughput.loss) is not None:
            metrics.loss(loss)
        metrics.loss_scale(self._loss_scale)
        metrics.epoch(self._plan.epochs_done(position))
        for seconds in self._unpublished:
            metrics.step_done(seconds)
        self._unpublished.clear()

    def restart(self) -> None:
        """Discards the measurements of steps before a rollback, and the gradients of the step after them."""
        self.throughput, self._overflows = MovingThroughput(), 0
        self._steps.discard()

    def close(self) -> None:
        """Writes an unfinished profile."""
        if self._profiler:
            self._profiler.close()
