"""Converts operating system errors in a checkpoint directory to training errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnext_trainer.checkpoint import directory
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

_PERMANENT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def explain_os_errors(root: Path) -> Iterator[None]:
    """Raises TrainingError for an OSError of the block, with the file or `root`, its owner and mode, and a remedy.

    The exit status is INVALID_CONFIGURATION if a retry is useless, CHECKPOINT_NOT_SAVED for a full volume, otherwise
    SYSTEM_ERROR.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _PERMANENT:
            status, remedy = (
                ExitStatus.INVALID_CONFIGURATION,
                "change its owner or mode, or set checkpoint.path to another directory",
            )
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            status, remedy = ExitStatus.CHECKPOINT_NOT_SAVED, "free space on the volume"
        else:
            status, remedy = ExitStatus.SYSTEM_ERROR, "check the volume and its server"
        path = error.filename or str(root)
        raise TrainingError(
            status,
            f"{path} cannot be used for checkpoints by uid {os.getuid()} ({directory.owner_and_mode(path)}): "
            f"{error.strerror}: {remedy}",
        ) from None
