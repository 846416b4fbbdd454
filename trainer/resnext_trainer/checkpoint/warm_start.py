"""The weights that a new training takes over from a finished one."""

from collections.abc import Mapping
from pathlib import Path

from resnext_trainer.checkpoint import runs, store
from resnext_trainer.checkpoint.store import Arrays
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.ema import PREFIX

HEAD = "classifier/"
"""The variables that depend on the number of classes."""


FIELD = "spec.training.initialCheckpoint is"
"""How the sentence of a refusal begins, before the path."""


def read_weights(path: str, field: str = FIELD) -> Arrays:
    """The arrays of a checkpoint, or of a run, or of the current run of a checkpoint directory: its best or newest."""
    folder, origin = Path(path), f"{field} {path}"
    try:
        folder = runs.located(folder)
        if (folder / "state.json").exists():
            return store.read(folder)[1]
        if store.best(folder):
            return store.read(folder / "best")[1]
        newest = store.newest(folder)
    except store.CORRUPT_CHECKPOINT_ERRORS as error:
        raise _refused(origin, f"it is no whole checkpoint ({error})") from None
    except TrainingError as refused:
        raise _refused(origin, refused.message) from None
    if newest is None:
        raise _refused(origin, "there is no checkpoint")
    return newest[1]


def match_weights(shapes: Mapping[str, tuple[int, ...]], arrays: Arrays, path: str, field: str = FIELD) -> Arrays:
    """The arrays for the variables of these shapes; a head of another number of classes is left out, and so begins new.

    Where the checkpoint keeps averaged weights those are taken. Raises TrainingError where the network is another.
    """
    averaged = any(name.startswith(PREFIX) for name in arrays)
    found = {name: arrays.get(PREFIX + name if averaged else name) for name in shapes}
    fitting = {name: array for name, array in found.items() if array is not None and array.shape == shapes[name]}
    unfit = [name for name in shapes if name not in fitting]
    if others := [name for name in unfit if not name.startswith(HEAD)]:
        raise _refused(
            f"{field} {path}", f"it is of another network: {others[0]} has another shape there, or is missing"
        )
    return {name: array for name, array in fitting.items() if not (unfit and name.startswith(HEAD))}


def _refused(origin: str, why: str) -> TrainingError:
    return TrainingError(ExitStatus.CONFIGURATION_REFUSED, f"{origin}, and {why}: set another")
