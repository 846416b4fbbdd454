"""Whether an attempt resumes the current run of its checkpoint directory or starts a new one. Used on rank 0 only."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from resnext_trainer.checkpoint import compatibility, lock, provenance, resume_messages, runs, store
from resnext_trainer.checkpoint.compatibility import Comparison
from resnext_trainer.checkpoint.locked_run import LockedRun, RunOpener
from resnext_trainer.checkpoint.os_errors import explain_os_errors
from resnext_trainer.checkpoint.provenance import Provenance
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import InvalidConfig
from resnext_trainer.contract import ExitStatus, SavedCheckpoint
from resnext_trainer.data.fingerprint import Fingerprint
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)


class Resumption:
    """The run of one attempt, from its selection to the end of the attempt."""

    def __init__(self, config: Training, attempt: int, note: Callable[[str], None]) -> None:
        self._config, self._note = config, note
        self._root = Path(config.checkpoint.path)
        self._holder = lock.this_training(attempt)
        self._opener = RunOpener(self._root, self._holder, config.checkpoint.lock_timeout_seconds, note)
        self._opened: LockedRun | None = None
        self._newest: tuple[TrainingPosition, SavedCheckpoint, Provenance | None] | None = None
        self._comparison: Comparison | None = None
        self.provenance: Provenance
        """The provenance of the checkpoints of this attempt."""

    @property
    def folder(self) -> Path:
        """The run's directory."""
        return self._current.run.folder

    def select(self) -> Training:
        """Acquires the lock of the current run. Returns the settings for opening the dataset.

        Raises TrainingError if another training holds the lock, or if the run cannot be read.
        """
        with explain_os_errors(self._root):
            self._opened = self._opener.open_current()
            self._newest = store.newest_provenance(self.folder)
        before = self._newest[2] if self._newest else None
        if before is None:
            return self._config
        self._comparison = compatibility.compare(self._config, before.config)
        if not self._comparison.recipe or self._config.checkpoint.on_mismatch == "continue":
            return _merged(self._comparison)
        return self._config

    def settle(self, dataset: Fingerprint, class_names: Sequence[str | None]) -> Training:
        """Resumes the run or starts a new one, according to `checkpoint.onMismatch`. Returns the settings that apply.

        Raises TrainingError if the recipe or the dataset differs, or if the run has already trained more epochs.
        """
        config, before = self._config, self._newest[2] if self._newest else None
        on_mismatch = config.checkpoint.on_mismatch
        differences = [str(each) for each in self._comparison.recipe] if self._comparison else []
        if before:
            differences += before.dataset.differences(dataset)
        if differences and on_mismatch in ("warmStart", "restart"):
            self._begin(differences)
            before = None
        elif self._newest:
            position = self._newest[0]
            if differences and on_mismatch == "refuse":
                raise _rejected(resume_messages.mismatch(self._current.run, position.step, differences))
            if self._comparison:
                config = _merged(self._comparison)
            if config.epochs < position.epoch or (config.epochs == position.epoch and position.images):
                raise _rejected(resume_messages.too_few_epochs(config.epochs, self._current.run, position))
            self._log_differences(before, differences)
        self.provenance = provenance.of_attempt(
            config, before, dataset, class_names, differences, self._current.run.id, self._holder
        )
        return config

    def warm_start_folder(self) -> Path | None:
        """The directory of the run whose weights this one starts with, if it is a warm start."""
        return runs.warm_start_folder(self._root, self._current.run)

    def check(self) -> None:
        """Raises TrainingError if another process took over the lock. Reads the lock files."""
        self._current.lock.check()

    def check_known(self) -> None:
        """Raises TrainingError if another process is already known to have taken over the lock."""
        self._current.lock.check_known()

    def close(self) -> None:
        """Releases the lock of the run."""
        if self._opened:
            self._opened.lock.release()

    @property
    def _current(self) -> LockedRun:
        assert self._opened, "`select` opens the run"
        return self._opened

    def _begin(self, differences: Sequence[str]) -> None:
        """Starts a new run, which becomes the current one. The files of the old run are kept."""
        old, on_mismatch = self._current, self._config.checkpoint.on_mismatch
        with explain_os_errors(self._root):
            # The lock of the old run is held until the new one is current, so that no other process starts a run.
            self._opened = self._opener.begin(weights=old.run.id if on_mismatch == "warmStart" else None)
            old.lock.release()
        self._newest = self._comparison = None
        self._note(resume_messages.replacement(old.run, self._opened.run, differences, on_mismatch))

    def _log_differences(self, before: Provenance | None, differences: Sequence[str]) -> None:
        if before is None:
            log.warning(
                "%s has checkpoint format 1, which stores neither recipe nor dataset: they cannot be compared. "
                "New checkpoints have format %d",
                self._current.run,
                runs.FORMAT,
            )
        elif self._comparison:
            for line in resume_messages.resumed_with(self._comparison, before, differences):
                self._note(line)


def _merged(comparison: Comparison) -> Training:
    try:
        return comparison.config()
    except InvalidConfig as error:
        raise _rejected(str(error)) from None


def _rejected(message: str) -> TrainingError:
    return TrainingError(ExitStatus.INVALID_CONFIGURATION, message)
