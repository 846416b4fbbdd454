"""Which checkpoint to take, and which of its weights: raw or averaged."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnext_trainer.checkpoint import runs, store
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import Arrays, Checkpoint
from resnext_trainer.model.ema import PREFIX

BEST, NEWEST = "best", "newest"


class DamagedCheckpointError(Exception):
    """The selected checkpoint is not whole."""

    def __init__(self, path: Path, cause: Exception) -> None:
        super().__init__(str(cause))
        self.path = path


def select(source: Path | Run, prefer: str | None = None, *, skip_damaged_best: bool = False) -> Checkpoint | None:
    """The checkpoint to take from `source`; None if there is none.

    `source` is a run, or the path of a single checkpoint, of a run, or of a checkpoint directory, whose current run
    counts. `prefer` is BEST, NEWEST, or None: the best one, or the newest while there is no best one.

    A training that resumes takes, in this order of preference:

    1. The newest checkpoint of its run: the highest step, then the highest attempt. Damaged ones are skipped with a
       warning.
    2. Without any, the weights of the run before, if `checkpoint.onMismatch` is warmStart: of its best checkpoint, or
       else of its newest.
    3. The weights of `initialCheckpoint`, selected in the same way.
    4. The initial weights, which depend on the seed alone.

    Raises DamagedCheckpointError where a single or the best checkpoint is not whole; `skip_damaged_best` takes the
    newest instead of such a best one. Raises TrainingError where a run has checkpoints and none is valid.
    """
    if isinstance(source, Run):
        folder = source.folder
    else:
        folder = runs.located(source)
        if store.is_checkpoint(folder):
            return read(folder)
    if prefer == NEWEST:
        return store.newest(folder)
    if skip_damaged_best:
        return store.best(folder) or store.newest(folder)
    if prefer == BEST or store.best_path(folder).is_dir():
        return read(store.best_path(folder))
    return store.newest(folder)


def read(checkpoint: Path) -> Checkpoint:
    """A single checkpoint; raises DamagedCheckpointError where it is missing or not whole."""
    try:
        return store.read(checkpoint)
    except store.CORRUPT_CHECKPOINT_ERRORS as error:
        raise DamagedCheckpointError(checkpoint, error) from None


def weights(arrays: Arrays, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The weights and statistics of these names; those that the checkpoint does not have are missing.

    The moving averages, if the checkpoint has them: the best checkpoint is chosen by their accuracy. Never a mixture.
    """
    averaged = any(name.startswith(PREFIX) for name in arrays)
    stored = {name: PREFIX + name if averaged else name for name in names}
    return {name: arrays[key] for name, key in stored.items() if key in arrays}
