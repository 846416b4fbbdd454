"""Where a training comes from and what it leaves: checkpoints read and written by rank 0, and agreed on by all.

They are written beside the training, from a copy of its state, so that steps wait for memory and not for a disk.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from resnext_trainer.checkpoint import store, warm_start
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.select import NEWEST, select
from resnext_trainer.checkpoint.store import Arrays, TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus, SavedCheckpoint
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.ema import PREFIX
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime import distributed
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer

_Found = tuple[TrainingPosition, SavedCheckpoint | None]


class CheckpointManager:
    """The checkpoints of one attempt."""

    def __init__(
        self,
        config: Training,
        attempt: int,
        ranks: Communicator,
        state: TrainState,
        metrics: Metrics,
        console: Console,
        phases: PhaseTimer,
        run: Resumption | None,
    ) -> None:
        """`run` is the one that the attempt resumes or begins; rank 0 alone has it."""
        self._config, self._attempt, self._ranks = config, attempt, ranks
        self._state, self._of_rank_0 = state, run
        self._metrics, self._console, self._phases = metrics, console, phases
        self.saved: SavedCheckpoint | None = None
        """The newest checkpoint; known to every rank when it was read, to rank 0 when it was written."""
        self._best_top1: float | None = None
        """Top-1 of the best checkpoint on the disk. Rank 0 knows it."""
        self.failure = ""
        """Why what was last written could not be; empty if it could, or is being written. Rank 0 knows it."""
        self._writing: Future[None] | None = None

    def restore(self) -> TrainingPosition:
        """Gives every rank the state of the newest checkpoint; without one, that of the training's beginning."""
        self.wait()
        found = distributed.run_collectively(self._ranks, self._read)
        position: TrainingPosition
        position, self.saved = self._ranks.gather(found)[0]
        self._ranks.broadcast(list(self._state.variables().values()))
        return position

    def check(self) -> None:
        """Raises TrainingError on rank 0 if another process is known to write the run's checkpoints now."""
        if self._of_rank_0:
            self._of_rank_0.check_known()

    @property
    def _run(self) -> Resumption:
        assert self._of_rank_0, "only rank 0 reads and writes checkpoints"
        return self._of_rank_0

    def save(
        self,
        position: TrainingPosition,
        variables: Mapping[str, Any] | None = None,
        *,
        newest: bool = True,
        best: bool = False,
    ) -> None:
        """Begins to save on rank 0, and ends what was begun before; `saved` and `wait` tell when it is there.

        As the newest; and apart, if this is the best and its top-1 accuracy better than that of the best checkpoint
        there is. A disk that is full must not end a training: that is counted, and tried again later.

        variables: what to save; those of the train state if it is None.
        """
        if self._ranks.rank != 0:
            return
        self.wait()
        best = best and position.top1 is not None and (self._best_top1 is None or position.top1 > self._best_top1)
        if newest or best:
            with self._phases.phase("checkpoint"):
                # A copy: on a CPU the next step writes into the same memory.
                values = self._state.variables() if variables is None else variables
                arrays = {name: np.array(value.numpy()) for name, value in values.items()}
            self._writing = _in_background(lambda: self._write(position, arrays, newest=newest, best=best))

    def wait(self, seconds: float | None = None) -> bool:
        """Returns when all is on the disk that was to be, or could not be; False where that takes longer."""
        if self._writing:
            with self._phases.phase("checkpoint"):
                try:
                    self._writing.result(seconds)
                except TimeoutError:
                    return False
            self._writing = None
        return True

    def abandon(self) -> None:
        """Waits no longer for a checkpoint that is still being written."""
        self._writing = None

    def is_saved(self, position: TrainingPosition) -> bool:
        """Whether rank 0 has saved this position."""
        self.wait()
        return self.saved is not None and self.saved.step == position.step

    def _write(self, position: TrainingPosition, arrays: Arrays, *, newest: bool, best: bool) -> None:
        self.failure = ""
        # The best first: else an end between the two would leave a checkpoint that knows of a best one never written.
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

    def _read(self) -> _Found:
        if self._ranks.rank != 0:
            return TrainingPosition(), None
        best = store.best(self._run.folder)
        self._best_top1 = best.position.top1 if best else None
        newest = select(Run(self._run.folder), NEWEST)
        if newest is None:
            self._load_initial_weights()
            return TrainingPosition(), None
        position, arrays, saved = newest
        if self._run.provenance:
            saved = saved.model_copy(update={"differences": self._run.provenance.differences})
        variables = self._state.variables()
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        if shapes != {name: array.shape for name, array in arrays.items()}:
            continues = self._config.checkpoint.on_mismatch == "continue"
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                f"the checkpoint {saved.path} was saved from a different model than "
                f"{self._config.model.architecture} with {self._config.model.classes} classes (emaDecay "
                f"{self._config.ema_decay:g}): set checkpoint.path, or the volume behind it, to another one"
                + (", or checkpoint.onMismatch to warmStart or restart" if continues else ""),
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        known = [top1 for top1 in (position.best_top1, self._best_top1) if top1 is not None]
        return replace(position, best_top1=max(known, default=None)), saved

    def _load_initial_weights(self) -> None:
        """Begins with the weights of the run before (onMismatch: warmStart) or of `initialCheckpoint`, if any."""
        source: Path | Run
        if (old := self._run.warm_start_folder()) is not None:
            source, path = Run(old), str(old)
            field = "spec.training.checkpoint.onMismatch is warmStart, the weights are those of"
        elif self._config.initial_checkpoint is not None:
            path, field = self._config.initial_checkpoint, warm_start.FIELD
            source = Path(path)
        else:
            return
        model = self._state.model
        variables = {**model.weights, **model.statistics}
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        taken = warm_start.match_weights(shapes, warm_start.read_weights(source, path, field), path, field)
        everything = self._state.variables()
        for name, array in taken.items():
            for variable in (everything[name], everything.get(PREFIX + name)):
                if variable is not None:
                    variable.assign(array)
        new = [name for name in variables if name not in taken]
        self._console.note(
            f"{len(taken)} variables come from {path}; " + (f"new: {', '.join(new)}" if new else "none is new")
        )


def _in_background(act: Callable[[], None]) -> "Future[None]":
    """Runs `act` in a thread that the process does not wait for at its end: a write may hang with its volume."""
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
