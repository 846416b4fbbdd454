"""Runs, times, checks and counts single training steps."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.data.input_pipeline import Batch
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import RankRequests, StepResult, train_step
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics, Phase
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.profiler import Profiler
from resnext_trainer.training.throughput import MovingThroughput

# A dynamic loss scale falls from 2^15 to its floor of 1 in 15 halvings, so more consecutive overflows have another cause.
_MAX_OVERFLOWS_IN_A_ROW = 25


class NotFiniteError(Exception):
    """A loss or a weight is not finite. Raised on every rank, because the values are averaged over the ranks."""


class StepRunner:
    """Runs the steps of one rank."""

    def __init__(
        self,
        config: Training,
        plan: EpochPlan,
        communicator: Communicator,
        state: TrainState,
        metrics: Metrics,
        heartbeat: Heartbeat,
        phases: PhaseTimer,
        profiler: Profiler | None,
    ) -> None:
        self._config, self._plan, self._communicator, self._state = config, plan, communicator, state
        self._metrics, self._heartbeat, self._phases, self._profiler = metrics, heartbeat, phases, profiler
        self.throughput = MovingThroughput()
        self._compiled, self._overflows = False, 0

    def run(
        self, batches: Iterator[Batch], position: TrainingPosition, rate: float, requests: Callable[[], RankRequests]
    ) -> StepResult:
        """Runs the step after `position`. rate: learning rate."""
        with self._profiler.step(position.step + 1) if self._profiler else nullcontext():
            outcome = train_step(
                self._state,
                self._communicator,
                batches,
                rate,
                mixup_weight=lambda part: self._mixup_weight(position, part),
                requests=requests,
                phase=self._phase,
            )
        self._compiled = True
        return outcome

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
        metrics.loss_scale(float(self._state.optimizer.scale))
        metrics.epoch(self._plan.epochs_done(position))
        self._heartbeat.step_done()
        metrics.step_done(seconds)

    def restart(self) -> None:
        """Discards the measurements of steps before a rollback."""
        self.throughput, self._overflows = MovingThroughput(), 0

    def close(self) -> None:
        """Writes an unfinished profile."""
        if self._profiler:
            self._profiler.close()

    def _phase(self, name: Phase) -> AbstractContextManager[None]:
        return self._phases.phase("compile" if name == "compute" and not self._compiled else name)

    def _mixup_weight(self, position: TrainingPosition, part: int) -> Any:
        """Mixup weights, float32 [batch] (or [1] without mixup), as a function of the seed and the position."""
        config = self._config
        place = [config.seed, position.epoch, position.images // self._plan.global_batch, self._communicator.rank, part]
        random = np.random.default_rng(place)
        shares = random.beta(config.mixup, config.mixup, config.batch_size) if config.mixup else np.ones(1)
        return tf.constant(shares, tf.float32)
