"""Schedules checkpoints, and waits until the last one is on disk before the training ends."""

import math
import time
from collections.abc import Mapping
from typing import Any

from resnext_trainer.checkpoint.final_save import FinalSave
from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Checkpoint
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import averaged_variables, is_finite
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.training.step_runner import NotFiniteError


def expected_interval(config: Checkpoint, images: int, images_per_second: float | None) -> float:
    """Longest expected time between two checkpoints in seconds, without evaluations; NaN if it is unknown.

    images: number of training images of an epoch.
    """
    if config.interval_minutes:
        return 60 * config.interval_minutes
    return config.interval_epochs * images / images_per_second if images_per_second else math.nan


class CheckpointSaver:
    """Saves checkpoints: within an epoch by the clock of rank 0, otherwise by the number of epochs."""

    def __init__(
        self,
        config: Checkpoint,
        communicator: Communicator,
        state: TrainState,
        manager: CheckpointManager,
        heartbeat: Heartbeat,
        console: Console,
        requests: Requests,
    ) -> None:
        self._config, self._communicator, self._state, self._manager = config, communicator, state, manager
        self._heartbeat, self._console, self._requests = heartbeat, console, requests
        self._next = math.inf
        self._postponed = False

    def schedule(self) -> None:
        """Schedules the next save within an epoch `intervalMinutes` from now."""
        minutes = self._config.interval_minutes
        self._next = time.monotonic() + 60 * minutes if minutes else math.inf
        self._postponed = False

    def is_due(self) -> bool:
        """Whether a save is due on rank 0; the other ranks receive the request with the gradients."""
        return self._communicator.rank == 0 and time.monotonic() >= self._next

    def postpone(self) -> None:
        """Moves a save that is due at the end of an epoch to after the evaluation."""
        self._postponed = True

    def save_within_epoch(self, position: TrainingPosition) -> None:
        """Saves the newest checkpoint within an epoch; raises NotFiniteError on every rank."""
        variables = averaged_variables(self._state, self._communicator)
        self._check_finite(position, variables)
        self._manager.save(position, variables)
        self.schedule()

    def save_after_epoch(self, position: TrainingPosition, *, ends: bool, evaluated: bool) -> None:
        """Saves the checkpoints that are due at the end of an epoch; raises NotFiniteError on every rank.

        The newest checkpoint is due at the end of the training, every `intervalEpochs`, and if a save was postponed;
        the best one is due after an evaluation. The caller must have averaged the statistics over the ranks.
        """
        newest = ends or position.epoch % self._config.interval_epochs == 0 or self._postponed
        if not (newest or evaluated):
            return
        self._check_finite(position, self._state.variables())
        self._manager.save(position, newest=newest, best=evaluated)
        if newest:
            self.schedule()

    def save_stopped(self, position: TrainingPosition) -> None:
        """Saves the newest checkpoint after a stop request; raises NotFiniteError on every rank.

        The caller must have averaged the statistics over the ranks.
        """
        self._check_finite(position, self._state.variables())
        self._manager.save(position)
        self.schedule()

    def finish(self, position: TrainingPosition, *, stopping: bool = False) -> str:
        """Waits until the last checkpoint is on disk and describes it; raises TrainingError on every rank if it cannot
        be saved in time.
        """
        started, until = time.monotonic(), float(self._config.save_timeout_seconds)

        def seconds_left() -> float:
            nonlocal until
            spent = time.monotonic() - started
            if stopping or self._requests.stop.is_set():
                until = min(until, spent + self._requests.seconds_to_save)
            return until - spent

        last = FinalSave(self._manager, self._communicator, self._heartbeat, self._console, self._config.path)
        return last.finish(position, seconds_left, best=not stopping)

    def _check_finite(self, position: TrainingPosition, variables: Mapping[str, Any]) -> None:
        """Raises NotFiniteError if a weight is not finite, because no run can resume from such a checkpoint."""
        if not is_finite(self._state, variables):
            raise NotFiniteError(f"a weight after step {position.step} is not finite")
