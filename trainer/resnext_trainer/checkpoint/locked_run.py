"""Opens runs under their lock, so that only one attempt writes to a run. Used on rank 0 only."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnext_trainer.checkpoint import lock, runs
from resnext_trainer.checkpoint.lock import Holder, Lock
from resnext_trainer.checkpoint.runs import Run


@dataclass(frozen=True)
class LockedRun:
    """A run with the lock that this attempt holds on it."""

    run: Run
    lock: Lock


@dataclass(frozen=True)
class RunOpener:
    """Opens runs of one checkpoint directory.

    Its methods raise TrainingError with CHECKPOINT_LOCKED if another training holds the lock for longer than the
    timeout, TrainingError if the current run is unknown, and OSError if the directory cannot be used.
    """

    root: Path
    """The checkpoint directory, which is created if it does not exist."""
    holder: Holder
    timeout_seconds: float
    """Time to wait for a lock."""
    note: Callable[[str], None]
    """Logs a message while waiting for a lock."""

    def open_current(self) -> LockedRun:
        """Opens the current run, or a new one in an empty directory."""
        self.root.mkdir(parents=True, exist_ok=True)
        while True:
            run = runs.current(self.root)
            if run is None:
                root_lock = self._acquire(self.root)
                try:
                    if runs.current(self.root) is None:
                        return self.begin()
                finally:
                    root_lock.release()
                continue
            run.folder.mkdir(parents=True, exist_ok=True)  # a user may have removed it
            run_lock = self._acquire(run.folder)
            if runs.current(self.root) == run:
                return LockedRun(run, run_lock)
            run_lock.release()  # the previous holder started another run

    def begin(self, weights: str | None = None) -> LockedRun:
        """Creates a run and makes it the current one. The caller holds the lock of the previous run, or of the root.

        weights: ID of the run whose weights the new one starts with; None to start from scratch.
        """
        run = runs.create(self.root, self.holder.training, self.holder.attempt, weights)
        run_lock = self._acquire(run.folder)
        runs.make_current(self.root, run)
        return LockedRun(run, run_lock)

    def _acquire(self, folder: Path) -> Lock:
        return lock.acquire(folder, self.holder, self.timeout_seconds, self.note)
