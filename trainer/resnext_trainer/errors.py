"""Errors that end an attempt, with an exit status and a message for the user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from resnext_trainer.contract import ExitStatus
from resnext_trainer.text import encodable, printable

_ADVICE = {
    "EMFILE": "raise the limit on open files (ulimit -n)",
    "ENFILE": "the node has no free file handles: raise fs.file-max on the node",
    "ENOMEM": "raise the memory limit",
}

_SYSTEM_ERRORS = {
    getattr(errno, name): name
    for name in (
        # Exhausted resources of the process or its node.
        *("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EINTR", "EBUSY"),
        # Disks, network storage and FUSE mounts.
        *("EIO", "ESTALE", "EREMOTEIO", "ENOLINK", "ENODATA", "EUCLEAN", "ESHUTDOWN", "ETIMEDOUT", "ETIME", "ENOTCONN"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ENETDOWN", "ENETRESET", "ENETUNREACH", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ECOMM", "EPROTO", "EREMCHG", "ENOLCK", "ENOTRECOVERABLE"),
    )
    if hasattr(errno, name)
}
"""Operating-system errors that a retry may resolve, on the same or another node; a bad file causes none of them."""


class TrainingError(Exception):
    """Ends the attempt with an exit status; the message says what is wrong, where, and what to do."""

    def __init__(self, verdict: ExitStatus, message: str, *, collective: bool = False, rank: int | None = None) -> None:
        self.verdict = verdict
        self.message = encodable(message)
        super().__init__(self.message)
        self.collective = collective
        """Whether every rank raises this error, so that all can exit normally."""
        self.rank = rank
        """The rank that caused the error; None if unknown or if all did."""


def system_error(error: BaseException, where: str | PathLike[str] | None = None) -> TrainingError | None:
    """TrainingError with the file and errno for an operating-system error, which is retried; None for other errors.

    where: the file; if None, the file name of the error is used.
    """
    if isinstance(error, MemoryError):
        name, words = "ENOMEM", "out of memory"
    elif isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        name, words = _SYSTEM_ERRORS[error.errno], str(error.strerror)
        where = where or error.filename
    else:
        return None
    place = f"{printable(where)}: " if where else ""
    advice = _ADVICE.get(name, "check the storage and the node; the attempt is retried")
    return TrainingError(ExitStatus.SYSTEM_ERROR, f"{place}{words} ({name}): {advice}")


@contextmanager
def system_errors(where: str | PathLike[str] | None = None) -> Iterator[None]:
    """Context manager that converts operating-system errors to TrainingError; other errors pass unchanged."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if converted := system_error(error, where):
            raise converted from error
        raise
