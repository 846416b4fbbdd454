"""An attempt that must not go on: the verdict it ends with, and the sentence for the user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from resnext_trainer.contract import ExitStatus
from resnext_trainer.text import encodable, printable

_ADVICE = {
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "the node has no free file handles: raise fs.file-max there",
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
"""Errors of the operating system that a retry may cure, here or on another node; none of them is a fault of a file."""


class TrainingError(Exception):
    """Ends the attempt with a verdict; the message says where, what, why and the way out."""

    def __init__(self, verdict: ExitStatus, message: str, *, collective: bool = False, rank: int | None = None) -> None:
        self.verdict = verdict
        self.message = encodable(message)
        super().__init__(self.message)
        self.collective = collective
        """Every rank raises this alike, so that all can end in order."""
        self.rank = rank
        """The rank whose fault it is, where it is known and not that of all."""


def system_error(error: BaseException, where: str | PathLike[str] | None = None) -> TrainingError | None:
    """A retried refusal that names the file and the errno, if the operating system failed; None for other errors.

    `where` is the file, if the error itself does not name one.
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
    """Raises TrainingError instead of an error of the operating system; other errors pass."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if refused := system_error(error, where):
            raise refused from error
        raise
