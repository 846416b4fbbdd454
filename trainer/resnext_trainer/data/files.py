"""Reading of files that may be anything: links, pipes and devices never block, and errors name the file.

Errors of the operating system (refusal.system_error) are raised as a retried refusal; all others are the file's own
fault, raised as BadFile.
"""

import errno
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from resnext_trainer.errors import system_error

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

OPEN_FILES = 256
"""Most shards that one process keeps open; ImageNet has 1,152."""


class BadFile(ValueError):
    """What is wrong with a file, without its name."""


def failure(error: OSError, file: str | os.PathLike[str]) -> BadFile:
    """The file's fault in words; raises TrainingError if it is the operating system's."""
    if refused := system_error(error, file):
        raise refused from None
    return BadFile(f"cannot be read: {error.strerror or error}")


def problem(file: str | os.PathLike[str]) -> str | None:
    """Why this is not a regular file, or a link to one; None if it is."""
    try:
        mode = os.stat(file).st_mode  # noqa: PTH116 (called for every shard and link)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(file):  # noqa: PTH114
            return "a link that leads nowhere"
        return str(failure(error, file))
    if stat.S_ISREG(mode):
        return None
    return next((words for matches, words in _KINDS if matches(mode)), "not a regular file")


def open_regular(file: str | os.PathLike[str]) -> int:
    """A descriptor of a regular file; raises BadFile for anything else, without waiting for a pipe's writer."""
    if why := problem(file):
        raise BadFile(why if why.startswith("cannot") else f"it is {why}")
    try:
        # Another file may have taken the name meanwhile: opening must not block even then.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error, file) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadFile("it is not a regular file")
    return descriptor


def read(file: str | os.PathLike[str], most: int = -1) -> bytes:
    """A regular file's content, or its first `most` bytes."""
    descriptor = open_regular(file)
    try:
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise failure(error, file) from None
    except MemoryError as error:
        raise system_error(error, file) or error from None


def _affordable() -> int:
    """A quarter of what the process may open, at most OPEN_FILES: libraries and metrics open files as well."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft == resource.RLIM_INFINITY else max(1, min(OPEN_FILES, soft // 4))


@dataclass(eq=False)
class _Handle:
    descriptor: int
    users: int = 0


class OpenFiles:
    """A bounded number of open files, of which the least recently used are closed first; threads may share it."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or _affordable()
        self._handles: dict[Path, _Handle] = {}
        """In the order of their last use."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._handles)

    def __del__(self) -> None:
        with suppress(OSError):
            for handle in self._handles.values():
                os.close(handle.descriptor)

    def read(self, file: Path, length: int, offset: int) -> bytes:
        """Part of a file; raises BadFile, or TrainingError for an error of the operating system."""
        with self._using(file) as descriptor:
            try:
                return os.pread(descriptor, length, offset)
            except OSError as error:
                raise failure(error, file) from None
            except MemoryError as error:
                raise system_error(error, file) or error from None

    @contextmanager
    def _using(self, file: Path) -> Iterator[int]:
        handle = self._taken(file) or self._opened(file)
        try:
            yield handle.descriptor
        finally:
            with self._lock:
                handle.users -= 1
                self._close_surplus()

    def _taken(self, file: Path) -> _Handle | None:
        with self._lock:
            if (handle := self._handles.pop(file, None)) is not None:
                self._handles[file] = handle
                handle.users += 1
            return handle

    def _opened(self, file: Path) -> _Handle:
        descriptor = open_regular(file)  # without the lock: network storage may take its time
        with self._lock:
            handle = self._handles.pop(file, None)
            if handle is None:
                handle = _Handle(descriptor)
            else:  # another thread was faster
                os.close(descriptor)
            self._handles[file] = handle
            handle.users += 1
            self._close_surplus()
        return handle

    def _close_surplus(self) -> None:
        surplus = len(self._handles) - self._limit
        for file in [file for file, handle in self._handles.items() if not handle.users][: max(0, surplus)]:
            os.close(self._handles.pop(file).descriptor)
