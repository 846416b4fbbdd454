"""The names of the classes, as far as the dataset says them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import labels
from resnext_trainer.data.datasets import folder as folders
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

Names = Sequence[str | None]
"""By class number; None for a class without a name."""


def names(config: Training) -> Names:
    """From labels.txt beside the data, or from the class folders; a training needs none, so nothing is refused."""
    data, count = config.data, config.model.classes
    found: list[str] = []
    try:
        if data.format == "folder":
            found = folders.class_names(data.path)
        elif data.format == "tfrecord" and (file := Path(data.path, labels.LABELS)).is_file():
            found = labels.read(file)
            if len(found) != count:
                log.warning("%s names %d classes, and model.classes is %d: no names are kept", file, len(found), count)
                found = []
    except (OSError, ValueError, TrainingError) as error:
        log.warning("the names of the classes cannot be read: %s", error)
    return [*found[:count], *[None] * (count - len(found))]


def from_file(file: Path, count: int) -> Names:
    """One name a line; TrainingError where there are not as many as classes."""
    try:
        found = labels.read(file)
    except (OSError, ValueError) as error:
        raise TrainingError(ExitStatus.INVALID_CONFIGURATION, f"{file} cannot be read: {error}") from None
    if len(found) != count:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"{file} names {len(found)} classes, and spec.training.model.classes is {count}: "
            "give the file of this data set with --labels",
        )
    return found
