"""Checkpoint manager: rank 0 reads and writes checkpoints, and all ranks resume from the same one.

A separate thread writes a copy of the state, so that training waits for the copy and not for the disk.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import Any

import tensorflow as tf

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.restore import Restored, restore
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.store import Arrays, TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import SavedCheckpoint
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime import distributed
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer


class CheckpointManager:
    """The checkpoints of one attempt."""

    def __init__(
        self,
        config: Training,
        attempt: int,
        communicator: Communicator,
        state: TrainState,
        metrics: Metrics,
        console: Console,
        phases: PhaseTimer,
        run: Resumption | None,
    ) -> None:
        """run: the run that the attempt resumes or starts; None on ranks other than 0."""
        self._config, self._attempt, self._communicator = config, attempt, communicator
        self._state, self._resumption = state, run
        self._metrics, self._console, self._phases = metrics, console, phases
        self.saved: SavedCheckpoint | None = None
        """The newest checkpoint: the restored one on every rank, a saved one only on rank 0."""
        self._best_top1: float | None = None
        """Top-1 accuracy of the best checkpoint on the disk, from 0 to 1; only on rank 0."""
        self.failure = ""
        """Why the last write failed; empty if it succeeded or has not finished. Only on rank 0."""
        self._writing: Future[None] | None = None

    def restore(self) -> TrainingPosition:
        """Restores the newest checkpoint on every rank; without one, the initial state.

        Raises TrainingError on every rank, as `checkpoint.restore.restore` does.
        """
        self.wait()
        on_rank_0: Restored = self._communicator.gather(
            distributed.run_collectively(self._communicator, self._restore)
        )[0]
        self.saved, self._best_top1 = on_rank_0.saved, on_rank_0.best_top1
        self._communicator.broadcast(list(self._state.variables().values()))
        return on_rank_0.position

    def check(self) -> None:
        """Raises TrainingError on rank 0 if another process is known to have taken over the lock of the run."""
        if self._resumption:
            self._resumption.check_known()

    @property
    def _run(self) -> Resumption:
        assert self._resumption, "only rank 0 reads and writes checkpoints"
        return self._resumption

    def save(
        self,
        position: TrainingPosition,
        variables: Mapping[str, Any] | None = None,
        *,
        newest: bool = True,
        best: bool = False,
    ) -> None:
        """Starts a write on rank 0 after the previous one has finished; `wait` returns when it is on the disk.

        A full disk must not end the training: the failure is counted, and the write is retried later.

        variables: the variables to save; None for those of the train state. newest: write the newest checkpoint. best:
        also write the best checkpoint, if the top-1 accuracy is higher than that of the one on the disk.
        """
        if self._communicator.rank != 0:
            return
        self.wait()
        best = best and position.top1 is not None and (self._best_top1 is None or position.top1 > self._best_top1)
        if newest or best:
            with self._phases.phase("checkpoint"):
                # A copy on the device, because the next step modifies the variables.
                values = self._state.variables() if variables is None else variables
                copies = {name: tf.raw_ops.DeepCopy(x=value) for name, value in values.items()}

            def write() -> None:
                arrays = {name: value.numpy() for name, value in copies.items()}
                self._write(position, arrays, newest=newest, best=best)

            self._writing = _in_background(write)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until the write has succeeded or failed. Returns False if that takes longer than `seconds`."""
        if self._writing:
            with self._phases.phase("checkpoint"):
                try:
                    self._writing.result(seconds)
                except TimeoutError:
                    return False
            self._writing = None
        return True

    def abandon(self) -> None:
        """Stops waiting for an unfinished write."""
        self._writing = None

    def is_saved(self, position: TrainingPosition) -> bool:
        """Whether rank 0 has saved this position."""
        self.wait()
        return self.saved is not None and self.saved.step == position.step

    def _restore(self) -> Restored:
        if self._communicator.rank != 0:
            return Restored()
        return restore(self._run, self._config, self._state, self._console)

    def _write(self, position: TrainingPosition, arrays: Arrays, *, newest: bool, best: bool) -> None:
        self.failure = ""
        # The best first: otherwise the newest checkpoint could refer to a best one that was never written.
        for write, wanted in ((self._write_best, best), (self._write_newest, newest)):
            try:
                if wanted:
                    write(position, arrays)
            except OSError as error:
                self.failure = str(error)
                self._metrics.checkpoint_failed()
                self._console.note(f"the checkpoint at step {position.step} could not be saved: {error}")

    def _write_best(self, position: TrainingPosition, arrays: Arrays) -> None:
        store.save_best(self._run.folder, position, arrays, self._run.provenance, self._run.check)
        self._best_top1 = position.top1

    def _write_newest(self, position: TrainingPosition, arrays: Arrays) -> None:
        keep = self._config.checkpoint.keep
        run = self._run
        self.saved = store.save(run.folder, position, arrays, self._attempt, keep, run.provenance, run.check)
        self._metrics.checkpoint_saved(self.saved.time)


def _in_background(act: Callable[[], None]) -> "Future[None]":
    """Runs `act` in a daemon thread, because a write may hang with its volume."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            act()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    Thread(target=run, name="checkpoint", daemon=True).start()
    return done
