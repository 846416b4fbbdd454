"""The last checkpoint of an attempt, which must be written before the attempt completes or stops."""

import time
from collections.abc import Callable

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import Heartbeat

_LOOK_SECONDS = 2.0
"""Interval of heartbeats of all ranks; less than any stallTimeoutSeconds."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between retries (exponential backoff)."""


class FinalSave:
    """Retries saving a checkpoint until it is written or the timeout expires."""

    def __init__(
        self,
        manager: CheckpointManager,
        communicator: Communicator,
        heartbeat: Heartbeat,
        console: Console,
        directory: str,
    ) -> None:
        self._manager, self._communicator, self._directory = manager, communicator, directory
        self._heartbeat, self._console = heartbeat, console
        self._tries, self._pause, self._again = 1, _FIRST_PAUSE, 0.0

    def finish(self, position: TrainingPosition, seconds_left: Callable[[], float], *, best: bool) -> str:
        """Waits until the checkpoint is written; the first try has been started. Must be called on every rank.

        Raises TrainingError on every rank when the timeout expires; a stop request may shorten the timeout. The best
        checkpoint is retried as well; if only that one fails, rank 0 returns a message.
        """
        self._again = time.monotonic() + self._pause
        while True:
            ours = self._look(position, seconds_left(), best) if self._communicator.rank == 0 else None
            # The other ranks wait here only briefly, and every rank sends a heartbeat after each check.
            saved = self._communicator.gather(ours)[0]
            self._heartbeat.beat("checkpoint")
            if saved is False:
                raise TrainingError(
                    ExitStatus.CHECKPOINT_NOT_SAVED,
                    self._communicator.gather(self._sentence(position))[0],
                    collective=True,
                )
            if saved:
                return (
                    f"; the best checkpoint could not be saved: {self._manager.failure}"
                    if self._manager.failure
                    else ""
                )

    def _look(self, position: TrainingPosition, left: float, best: bool) -> bool | None:
        """Whether the checkpoint is saved; None while that is not known."""
        manager, look = self._manager, max(0.0, min(_LOOK_SECONDS, left))
        if not manager.wait(look):
            if left > 0:
                return None
            manager.abandon()
            return False
        if left <= 0 or not manager.failure:
            return manager.is_saved(position)
        if (pause := self._again - time.monotonic()) > 0:
            time.sleep(min(pause, look))
            return None
        self._tries += 1
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._again = time.monotonic() + self._pause
        self._console.note(f"retrying to save step {position.step} (try {self._tries}, {left:.0f} s left)")
        manager.save(position, newest=not manager.is_saved(position), best=best)
        return None

    def _sentence(self, position: TrainingPosition) -> str:
        saved = self._manager.saved
        kept = f"the newest checkpoint is at step {saved.step}" if saved else "there is no checkpoint"
        tries = f"{self._tries} tries" if self._tries > 1 else "one try"
        return (
            f"the checkpoint at step {position.step} could not be saved in {self._directory} ({tries}): "
            f"{self._manager.failure or 'the write did not finish'}; {kept}: check free space, quota and "
            "permissions of the volume, or raise checkpoint.saveTimeoutSeconds"
        )
