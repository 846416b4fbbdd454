"""When a training saves its state, and that the last save is on the disk before it ends."""

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


class CheckpointSaver:
    """Saves within an epoch by rank 0's clock, otherwise when the training asks for it."""

    def __init__(
        self,
        config: Checkpoint,
        ranks: Communicator,
        state: TrainState,
        manager: CheckpointManager,
        heartbeat: Heartbeat,
        console: Console,
        requests: Requests,
    ) -> None:
        self._config, self._ranks, self._state, self._manager = config, ranks, state, manager
        self._heartbeat, self._console, self._requests = heartbeat, console, requests
        self._next = math.inf
        self.overdue = False
        """A save within the epoch was due, and the epoch had no step left."""

    def schedule(self) -> None:
        """The next save within an epoch is due `intervalMinutes` from now."""
        minutes = self._config.interval_minutes
        self._next = time.monotonic() + 60 * minutes if minutes else math.inf
        self.overdue = False

    def is_due(self) -> bool:
        """Whether rank 0 finds that it is time; the other ranks learn it with the gradients."""
        return self._ranks.rank == 0 and time.monotonic() >= self._next

    def save(
        self,
        position: TrainingPosition,
        variables: Mapping[str, Any] | None = None,
        *,
        newest: bool = True,
        best: bool = False,
    ) -> None:
        """Saves, unless the last update has left a weight that is not finite: that is no place to go back to.

        variables: what to save; those of the train state if it is None.
        """
        variables = self._state.variables() if variables is None else variables
        if not is_finite(self._state, variables):
            raise NotFiniteError(f"a weight after step {position.step} is not finite")
        self._manager.save(position, variables, newest=newest, best=best)
        if newest:
            self.schedule()

    def save_within_epoch(self, position: TrainingPosition) -> None:
        """Saves where the epoch goes on."""
        self.save(position, averaged_variables(self._state, self._ranks))

    def finish(self, position: TrainingPosition, *, stopping: bool = False) -> str:
        """Returns when the last checkpoint is on the disk; TrainingError on every rank where it cannot be saved in
        time.
        """
        started, until = time.monotonic(), float(self._config.save_timeout_seconds)

        def seconds_left() -> float:
            nonlocal until
            spent = time.monotonic() - started
            if stopping or self._requests.stop.is_set():
                until = min(until, spent + self._requests.seconds_to_save)
            return until - spent

        last = FinalSave(self._manager, self._ranks, self._heartbeat, self._console, self._config.path)
        return last.finish(position, seconds_left, best=not stopping)
