"""Training steps whose results are handled while the device computes the next step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.data.input_pipeline import Batch
from resnext_trainer.model import train_step
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import Gradients, RankRequests, StepResult
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import ALLREDUCE
from resnext_trainer.runtime.metrics import Phase
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.training.epoch_plan import EpochPlan

_STEPS_PER_SAMPLE = 50
"""Steps between two that are measured part by part. On a GPU, such a step costs a few milliseconds."""
_PARTS: tuple[Phase, ...] = ("compute", ALLREDUCE, "optimizer")


class OverlappedSteps:
    """Starts the gradients of the next step before it waits for the result of a step.

    Gradients do not change the state. A training that stops, saves or rolls back after a step therefore does so in the
    state after exactly this step, on every rank.
    """

    def __init__(
        self, config: Training, plan: EpochPlan, communicator: Communicator, state: TrainState, phases: PhaseTimer
    ) -> None:
        self._config, self._plan, self._communicator, self._state = config, plan, communicator, state
        self._phases = phases
        self._ahead: Gradients | None = None
        """Gradients of the next step."""
        self._uncompiled: set[Phase] = {"compute", "optimizer"}
        self._synchronized = True
        """Whether this step waits for the device after each part."""
        self._until_sample = 0
        self._unmixed = tf.ones(1)

    def run(
        self,
        batches: Iterator[Batch],
        position: TrainingPosition,
        following: TrainingPosition,
        rate: float,
        requests: Callable[[], RankRequests],
    ) -> StepResult:
        """Runs the step from `position` to `following`.

        rate: learning rate. requests: called right before the all-reduce.
        """
        gradients_computed = (self._ahead is None) + self._plan.has_step(following)
        compiles = bool(self._uncompiled)
        self._synchronized = compiles or (self._until_sample <= 0 and gradients_computed > 0)
        self._until_sample -= 1
        before = self._phases.totals() if self._synchronized else {}

        pending = train_step.apply_gradients(
            self._state,
            self._communicator,
            self._take_ahead() or self._gradients(batches, position),
            rate,
            requests(),
            self._part,
            self._synchronized,
        )
        if self._plan.has_step(following):
            self._ahead = self._gradients(batches, following)
        with self._part(ALLREDUCE):
            outcome = pending.wait()

        if self._synchronized and not compiles:
            self._sample(before, gradients_computed)
        return outcome

    def discard(self) -> None:
        """Discards the gradients of the next step, because another one follows."""
        self._ahead = None

    def _take_ahead(self) -> Gradients | None:
        """The gradients that the previous step began to compute; keeps no reference, so that they can be freed."""
        gradients, self._ahead = self._ahead, None
        return gradients

    def _gradients(self, batches: Iterator[Batch], position: TrainingPosition) -> Gradients:
        """Gradients of the step after `position`, summed over `gradientAccumulation` batches."""
        total: Gradients | None = None
        for part in range(self._config.gradient_accumulation):
            with self._phases.phase("data_wait"):
                images, labels = next(batches)
            with self._part("compute"):
                mix = self._mixup_weight(position, part)
                gradients = train_step.forward_backward(self._state, images, labels, mix)
                total = gradients if total is None else train_step.add(total, gradients)
                if self._synchronized:
                    total.loss.numpy()
        assert total, "a step has at least one batch"
        return total

    def _part(self, name: Phase) -> AbstractContextManager[None]:
        if not self._synchronized:
            return self._phases.part_of_step(name)
        if name in self._uncompiled:
            self._uncompiled.remove(name)
            return self._phases.phase("compile")
        return self._phases.phase(name)

    def _sample(self, before: Mapping[Phase, float], gradients_computed: int) -> None:
        """Measures the parts of the step that has just ended."""
        after = self._phases.totals()
        seconds = {part: after[part] - before[part] for part in _PARTS}
        seconds["compute"] /= gradients_computed
        self._phases.calibrate(seconds)
        self._until_sample = _STEPS_PER_SAMPLE

    def _mixup_weight(self, position: TrainingPosition, part: int) -> Any:
        """Mixup weights, float32 [batch] (or [1] without mixup), as a function of the seed and the position."""
        config = self._config
        if not config.mixup:
            return self._unmixed
        place = [config.seed, position.epoch, position.images // self._plan.global_batch, self._communicator.rank, part]
        shares = np.random.default_rng(place).beta(config.mixup, config.mixup, config.batch_size)
        return tf.constant(shares, tf.float32)
