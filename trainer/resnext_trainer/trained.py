"""A network as a checkpoint has it, for the commands that use one and do not train it on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnext_trainer import checkpoint, distributed
from resnext_trainer.averaging import PREFIX
from resnext_trainer.checkpoint import Arrays, Position
from resnext_trainer.config import Precision, Training
from resnext_trainer.data import folder as folders
from resnext_trainer.data.prepare import LABELS
from resnext_trainer.distributed import Ranks
from resnext_trainer.refusal import Refused
from resnext_trainer.report import SavedCheckpoint, Verdict
from resnext_trainer.step import Step

_BEST, _NEWEST = "best", "newest"


def exact(config: Training) -> Training:
    """The same training in float32 and without XLA: for a few images, compiling would take longer than computing."""
    return config.model_copy(update={"precision": Precision(mode="fp32"), "xla": False})


def network(config: Training, ranks: Ranks) -> Step:
    """The network that a configuration describes, with fresh weights, on the device that it asks for."""
    return Step(config, ranks, distributed.pin_device(ranks, config.device))


def restore(step: Step, config: Training, wanted: str | None) -> tuple[Position, SavedCheckpoint]:
    """Gives the network a checkpoint's weights: `best`, `newest`, a folder, or (None) the best if there is one.

    Raises Refused where there is none, where it is not whole, or where it is of another network.
    """
    position, arrays, saved = _read(Path(config.checkpoint.path), wanted)
    for name, variable in {**step.model.weights, **step.model.statistics}.items():
        array = _array(arrays, name)
        if array is None or array.shape != tuple(variable.shape):
            raise Refused(
                Verdict.CONFIGURATION_REFUSED,
                f"the checkpoint {saved.path} is of another network than {config.model.architecture} with "
                f"{config.model.classes} classes ({name} differs): give --config as the training had it",
            )
        variable.assign(array)
    return position, saved


def _array(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    # Where averaged weights are kept, they are what the best checkpoint was chosen by.
    return arrays.get(PREFIX + name, arrays.get(name))


def class_names(config: Training, labels: Path | None) -> list[str]:
    """The names of the classes by number: from a file, labels.txt beside the data, or its folders; else the numbers."""
    data = config.data
    if labels is None and data.format == "folder" and Path(data.path).is_dir():
        return folders.class_names(data.path)
    file = labels or Path(data.path, LABELS)
    if labels is None and not file.is_file():
        return [str(number) for number in range(config.model.classes)]
    try:
        names = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Verdict.CONFIGURATION_REFUSED, f"{file} cannot be read: {error}") from None
    if len(names) != config.model.classes:
        raise Refused(
            Verdict.CONFIGURATION_REFUSED,
            f"{file} names {len(names)} classes, and spec.training.model.classes is {config.model.classes}: "
            "give the file of this data set with --labels",
        )
    return names


def _read(folder: Path, wanted: str | None) -> tuple[Position, Arrays, SavedCheckpoint]:
    if wanted == _NEWEST or (wanted is None and not (folder / _BEST).is_dir()):
        newest = checkpoint.newest(folder)
        if newest is None:
            raise _none(f"{folder} holds no checkpoint: set checkpoint.path, or give --checkpoint")
        return newest
    chosen = folder / _BEST if wanted in {None, _BEST} else Path(str(wanted))
    try:
        return checkpoint.read(chosen)
    except checkpoint.NOT_WHOLE as error:
        raise _none(f"{chosen} is no whole checkpoint ({error})") from None


def _none(message: str) -> Refused:
    return Refused(Verdict.NO_GOOD_CHECKPOINT, message)
