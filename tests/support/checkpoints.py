"""Reads checkpoints and runs, which must exist; and a fixture with a run of an earlier version."""

from pathlib import Path

from resnext_trainer.checkpoint import runs, store
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import Arrays, TrainingPosition
from resnext_trainer.contract import SavedCheckpoint

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "checkpoint-format-1"
"""config.yaml of a training and its run directory in checkpoint format 1, which has no pointer and no provenance."""


def newest(folder: Path) -> tuple[TrainingPosition, Arrays, SavedCheckpoint]:
    """Position, arrays and path of the newest checkpoint in a run directory."""
    found = store.newest(folder)
    assert found is not None, f"no checkpoint in {folder}"
    return found


def best(folder: Path) -> TrainingPosition:
    """Position of the best checkpoint in a run directory."""
    found = store.best(folder)
    assert found is not None, f"no best checkpoint in {folder}"
    return found.position


def current(root: Path) -> Run:
    """The current run of a checkpoint directory."""
    found = runs.current(root)
    assert found is not None, f"no run in {root}"
    return found
