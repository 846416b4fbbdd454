"""Selects a checkpoint, and its weights: raw or averaged."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from resnext_trainer.checkpoint import runs, store
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import Arrays, Checkpoint
from resnext_trainer.model.ema import PREFIX

BEST, NEWEST = "best", "newest"


class DamagedCheckpointError(Exception):
    """The selected checkpoint is missing or damaged."""

    def __init__(self, path: Path, cause: Exception) -> None:
        super().__init__(str(cause))
        self.path = path


def select(source: Path | Run, prefer: str | None = None, *, skip_damaged_best: bool = False) -> Checkpoint | None:
    """Selects a checkpoint from `source`; None if there is none.

    source: a run, or the path of a checkpoint, of a run, or of a checkpoint directory, which means its current run.
    prefer: BEST, NEWEST, or None for the best, or else the newest.

    A training resumes from, in this order of preference:

    1. The newest checkpoint of its run: the highest step, then the highest attempt. Damaged ones are skipped with a
       warning.
    2. The weights of the previous run, if `checkpoint.onMismatch` is warmStart: of its best checkpoint, or else of its
       newest.
    3. The weights of `initialCheckpoint`, selected in the same way.
    4. Random initial weights, which depend only on the seed.

    Raises DamagedCheckpointError if a single or the best checkpoint is damaged; with `skip_damaged_best` the newest is
    selected instead of a damaged best one. Raises TrainingError if a run has checkpoints and none is valid.
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
    """Reads a single checkpoint. Raises DamagedCheckpointError if it is missing or damaged."""
    try:
        return store.read(checkpoint)
    except store.CORRUPT_CHECKPOINT_ERRORS as error:
        raise DamagedCheckpointError(checkpoint, error) from None


def weights(arrays: Arrays, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The weights and statistics with these names that the checkpoint contains.

    All are moving averages if the checkpoint has averages, because their accuracy determines the best checkpoint.
    """
    averaged = any(name.startswith(PREFIX) for name in arrays)
    stored = {name: PREFIX + name if averaged else name for name in names}
    return {name: arrays[key] for name, key in stored.items() if key in arrays}
