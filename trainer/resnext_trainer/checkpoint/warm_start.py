"""Warm start: initial weights from the checkpoint of another training."""

from collections.abc import Mapping
from pathlib import Path

from resnext_trainer.checkpoint import select, store
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import Arrays
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

HEAD = "classifier/"
"""The variables that depend on the number of classes."""


FIELD = "spec.training.initialCheckpoint:"
"""Prefix of the path in error messages."""


def read_weights(source: Path | Run, path: str, field: str = FIELD) -> Arrays:
    """The arrays of the checkpoint that `select` selects from `source`. path: name of the source in messages."""
    origin = f"{field} {path}"
    try:
        found = select.select(source, skip_damaged_best=True)
    except (select.DamagedCheckpointError, *store.CORRUPT_CHECKPOINT_ERRORS) as error:
        raise _refused(origin, f"the checkpoint is missing or damaged ({error})") from None
    except TrainingError as refused:
        raise _refused(origin, refused.message) from None
    if found is None:
        raise _refused(origin, "no checkpoint found")
    return found.arrays


def match_weights(shapes: Mapping[str, tuple[int, ...]], arrays: Arrays, path: str, field: str = FIELD) -> Arrays:
    """The arrays for variables with these shapes, without the head if its number of classes differs.

    Raises TrainingError if the checkpoint was saved from a different model.
    """
    found = select.weights(arrays, shapes)
    fitting = {name: array for name, array in found.items() if array.shape == shapes[name]}
    unfit = [name for name in shapes if name not in fitting]
    if others := [name for name in unfit if not name.startswith(HEAD)]:
        raise _refused(
            f"{field} {path}",
            f"saved from a different model: {others[0]} is missing or has a different shape",
        )
    return {name: array for name, array in fitting.items() if not (unfit and name.startswith(HEAD))}


def _refused(origin: str, why: str) -> TrainingError:
    return TrainingError(ExitStatus.INVALID_CONFIGURATION, f"{origin}: {why}: set another path")
