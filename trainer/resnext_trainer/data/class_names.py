"""Class names, if the dataset provides them."""

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
"""One entry per class; None for a class without a name."""


def names(config: Training) -> Names:
    """Names from labels.txt next to the shards, or from the class folders.

    Training works without names, so errors are only logged.
    """
    data, count = config.data, config.model.classes
    found: list[str] = []
    try:
        if data.format == "folder":
            found = folders.class_names(data.path)
        elif data.format == "tfrecord" and (file := Path(data.path, labels.LABELS)).is_file():
            found = labels.read(file)
            if len(found) != count:
                log.warning(
                    "%s has %d class names, but model.classes is %d: ignoring the names", file, len(found), count
                )
                found = []
    except (OSError, ValueError, TrainingError) as error:
        log.warning("cannot read the class names: %s", error)
    return [*found[:count], *[None] * (count - len(found))]


def from_file(file: Path, count: int) -> Names:
    """Reads one name per line; raises TrainingError if the file cannot be read or does not have `count` names."""
    try:
        found = labels.read(file)
    except (OSError, ValueError) as error:
        raise TrainingError(ExitStatus.INVALID_CONFIGURATION, f"{file} cannot be read: {error}") from None
    if len(found) != count:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"{file} has {len(found)} class names, but spec.training.model.classes is {count}: "
            "pass this dataset's file with --labels",
        )
    return found
