"""Reads files of any kind: links, pipes and devices never block, and errors name the file.

Operating-system errors (errors.system_error) are raised as a TrainingError that is retried. All other errors are the
file's fault and raise BadFile.
"""

import errno
import os
import stat

from resnext_trainer.errors import system_error

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class BadFile(ValueError):
    """Problem with a file; the message does not contain its name."""


def failure(error: OSError, file: str | os.PathLike[str]) -> BadFile:
    """Converts an error of the file to BadFile; raises TrainingError for an operating-system error."""
    if converted := system_error(error, file):
        raise converted from None
    return BadFile(f"cannot be read: {error.strerror or error}")


def problem(file: str | os.PathLike[str]) -> str | None:
    """Why this is not a regular file, or a link to one; None if it is."""
    try:
        mode = os.stat(file).st_mode  # noqa: PTH116 (called for every shard and link)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(file):  # noqa: PTH114
            return "a broken link"
        return str(failure(error, file))
    if stat.S_ISREG(mode):
        return None
    return next((words for matches, words in _KINDS if matches(mode)), "not a regular file")


def open_regular(file: str | os.PathLike[str]) -> int:
    """Opens a regular file and returns its descriptor; raises BadFile for anything else and never blocks on a pipe."""
    if why := problem(file):
        raise BadFile(why if why.startswith("cannot") else f"it is {why}")
    try:
        # The file may have been replaced since the check: opening must not block even then.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error, file) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadFile("it is not a regular file")
    return descriptor


def read(file: str | os.PathLike[str], most: int = -1) -> bytes:
    """Reads a regular file, or its first `most` bytes; raises BadFile or TrainingError."""
    descriptor = open_regular(file)
    try:
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise failure(error, file) from None
    except MemoryError as error:
        raise system_error(error, file) or error from None
