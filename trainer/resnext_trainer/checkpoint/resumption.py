"""Which run an attempt resumes or begins, under whose lock, and with which settings. Only rank 0 comes here."""

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resnext_trainer.checkpoint import compatibility, directory, lock, runs, store
from resnext_trainer.checkpoint.compatibility import Comparison, Difference, shown
from resnext_trainer.checkpoint.lock import Lock
from resnext_trainer.checkpoint.provenance import Provenance, dumped, version
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import InvalidConfig
from resnext_trainer.contract import ExitStatus, SavedCheckpoint
from resnext_trainer.data.fingerprint import Fingerprint
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

_PERMANENT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Resumption:
    """The run of one attempt, from its selection to the attempt's end."""

    def __init__(self, config: Training, attempt: int, note: Callable[[str], None]) -> None:
        self._config, self._attempt, self._note = config, attempt, note
        self._root = Path(config.checkpoint.path)
        self._holder = lock.this_training(attempt)
        self._run: Run
        self._lock: Lock
        self._found: tuple[TrainingPosition, SavedCheckpoint, Provenance | None] | None = None
        self._comparison: Comparison | None = None
        self.provenance: Provenance
        """What the checkpoints of this attempt say about it."""

    @property
    def folder(self) -> Path:
        """The run's directory."""
        return self._run.folder

    def select(self) -> Training:
        """Takes the lock of the current run; the settings that the dataset is opened with.

        Raises TrainingError where another training holds the lock, or where the run cannot be read.
        """
        with _explained(self._root):
            self._run, self._lock = self._current()
            self._found = store.newest_provenance(self.folder)
        before = self._found[2] if self._found else None
        if before is None:
            return self._config
        self._comparison = compatibility.compare(self._config, before.config)
        if not self._comparison.recipe or self._config.checkpoint.on_mismatch == "continue":
            return self._resumed(self._comparison)
        return self._config

    def settle(self, dataset: Fingerprint, class_names: Sequence[str | None]) -> Training:
        """Resumes the run, or begins another one, as `checkpoint.onMismatch` says; the settings that apply.

        Raises TrainingError where the recipe or the dataset is another, or where more epochs are trained than wanted.
        """
        config, before = self._config, self._found[2] if self._found else None
        differences = [str(each) for each in self._comparison.recipe] if self._comparison else []
        if before:
            differences += before.dataset.differences(dataset)
        if differences and self._begins_anew:
            self._begin(differences)
            before = None
        elif differences and config.checkpoint.on_mismatch == "refuse":
            raise self._mismatch(differences)
        elif self._found:
            if self._comparison:
                config = self._resumed(self._comparison)
            self._check_epochs(config, self._found[0])
            self._tell(before, differences)
        self.provenance = self._provenance(config, before, dataset, class_names, differences)
        return config

    def weights(self) -> Path | None:
        """The directory of the run whose weights this one begins with, if it began as a warm start."""
        began = runs.beginning(self._run) if self._run.id else None
        return None if began is None or began.weights is None else runs.of_id(self._root, began.weights).folder

    def check(self) -> None:
        """Raises TrainingError if another process took over the lock; asks the disk."""
        self._lock.check()

    def check_known(self) -> None:
        """The same, as far as it is known already."""
        self._lock.check_known()

    def close(self) -> None:
        """Lets others take the run's lock."""
        if hasattr(self, "_lock"):
            self._lock.release()

    @property
    def _begins_anew(self) -> bool:
        return self._config.checkpoint.on_mismatch in ("warmStart", "restart")

    def _current(self) -> tuple[Run, Lock]:
        """The current run and its lock; in an empty directory a new one."""
        self._root.mkdir(parents=True, exist_ok=True)
        while True:
            run = runs.current(self._root)
            if run is None:
                first = self._acquired(self._root)
                try:
                    if runs.current(self._root) is None:
                        return self._new(weights=None)
                finally:
                    first.release()
                continue
            run.folder.mkdir(parents=True, exist_ok=True)  # a user may have removed it
            held = self._acquired(run.folder)
            if runs.current(self._root) == run:
                return run, held
            held.release()  # the last holder began another run

    def _acquired(self, folder: Path) -> Lock:
        return lock.acquire(folder, self._holder, self._config.checkpoint.lock_timeout_seconds, self._note)

    def _new(self, weights: str | None) -> tuple[Run, Lock]:
        run = runs.create(self._root, self._holder.training, self._attempt, weights)
        held = self._acquired(run.folder)
        runs.make_current(self._root, run)
        return run, held

    def _begin(self, differences: Sequence[str]) -> None:
        """A new run, which replaces the current one as such and leaves its files alone."""
        old, warm = self._run, self._config.checkpoint.on_mismatch == "warmStart"
        with _explained(self._root):
            # The old run's lock is held until the new run is the current one: nobody else can begin one now.
            old_lock = self._lock
            self._run, self._lock = self._new(weights=old.id if warm else None)
            old_lock.release()
        self._found = self._comparison = None
        self._note(
            f"{old} is of another recipe or dataset ({'; '.join(differences)}); {self._run} begins "
            + ("with its weights" if warm else "from scratch")
            + f" (onMismatch: {self._config.checkpoint.on_mismatch}). The old run is kept until you delete it"
        )

    def _tell(self, before: Provenance | None, differences: Sequence[str]) -> None:
        if before is None:
            log.warning(
                "%s is of checkpoint format 1, which stores neither recipe nor dataset: they cannot be compared. "
                "New checkpoints are of format %d",
                self._run,
                runs.FORMAT,
            )
        comparison = self._comparison
        if comparison is None or before is None:
            return
        if differences:
            self._note(f"resuming in spite of differences (onMismatch: continue): {'; '.join(differences)}")
        if comparison.run:
            self._note(f"resuming with other settings: {_listed(comparison.run)}")
        if removed := [each for each in comparison.kept if each.field in before.written]:
            self._note(f"no longer written, but the run keeps its recipe and settings: {_kept(removed)}")
        if others := [each for each in comparison.kept if each.field not in before.written]:
            self._note(f"the run keeps its own value of what is not written: {_kept(others)}")
        if comparison.unknown:
            self._note(
                f"written by version {before.version}, whose settings version {version()} does not know: "
                f"{', '.join(comparison.unknown)}"
            )

    def _check_epochs(self, config: Training, position: TrainingPosition) -> None:
        if config.epochs < position.epoch or (config.epochs == position.epoch and position.images):
            done = f"{position.epoch} epochs" + (
                f" and {position.images:,} images of the next" if position.images else ""
            )
            least = position.epoch + bool(position.images)
            raise self._refused(
                f"spec.training.epochs: {config.epochs}, but {self._run} has already trained {done} (step "
                f"{position.step}): set epochs to {least} or more, or checkpoint.path to another directory"
            )

    def _mismatch(self, differences: Sequence[str]) -> TrainingError:
        assert self._found
        return self._refused(
            f"{self._run} (step {self._found[0].step}) is of another recipe or dataset: {'; '.join(differences)}. "
            "Undo the changes, set checkpoints.subPath or checkpoint.path to another directory, or set "
            "checkpoint.onMismatch to continue, warmStart (new run, old weights) or restart (new run)"
        )

    def _resumed(self, comparison: Comparison) -> Training:
        try:
            return comparison.config()
        except InvalidConfig as error:
            raise self._refused(str(error)) from None

    def _refused(self, message: str) -> TrainingError:
        return TrainingError(ExitStatus.INVALID_CONFIGURATION, message)

    def _provenance(
        self,
        config: Training,
        before: Provenance | None,
        dataset: Fingerprint,
        class_names: Sequence[str | None],
        differences: Sequence[str],
    ) -> Provenance:
        if before and not any(class_names):
            class_names = before.class_names
        return Provenance(
            config=dumped(config),
            written=tuple(sorted(config.written | set(before.written if before else ()))),
            class_names=tuple(class_names),
            dataset=dataset,
            differences=(*before.differences, *differences) if before else (),
            run=self._run.id,
            training=self._holder.training,
            attempt=self._attempt,
            version=version(),
        )


def _listed(differences: Sequence[Difference]) -> str:
    return "; ".join(map(str, differences))


def _kept(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{each.field}: {shown(each.before)}, not {shown(each.now)}" for each in differences)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """A directory that cannot be used is a refusal; whether a retry can help depends on why."""
    try:
        yield
    except OSError as error:
        if error.errno in _PERMANENT:
            verdict, remedy = ExitStatus.INVALID_CONFIGURATION, "change its owner or mode, or set checkpoint.path"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            verdict, remedy = ExitStatus.CHECKPOINT_NOT_SAVED, "free space on the volume"
        else:
            verdict, remedy = ExitStatus.SYSTEM_ERROR, "check the volume and its server"
        where = error.filename or str(root)
        raise TrainingError(
            verdict,
            f"{where} cannot be used for checkpoints by uid {os.getuid()} ({directory.owner_and_mode(where)}): "
            f"{error.strerror}: {remedy}",
        ) from None
