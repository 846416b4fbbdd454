"""Reads files of any kind: links, pipes and devices never block, and errors name the file.

Operating-system errors (errors.system_error) are raised as a TrainingError that is retried. All other errors are the
file's fault and raise BadFile.
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

import numpy as np

from resnext_trainer.errors import system_error

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

OPEN_FILES = 256
"""Maximum number of shards that one process keeps open; ImageNet has 1,152."""


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


def affordable() -> int:
    """A quarter of the soft limit, at most OPEN_FILES: libraries and the metrics server need descriptors too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft == resource.RLIM_INFINITY else max(1, min(OPEN_FILES, soft // 4))


@dataclass(eq=False)
class _Handle:
    descriptor: int
    users: int = 0


class OpenFiles:
    """Thread-safe LRU cache of open files."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit or affordable()
        self._handles: dict[Path, _Handle] = {}
        """Least recently used first."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._handles)

    def __del__(self) -> None:
        with suppress(OSError):
            for handle in self._handles.values():
                os.close(handle.descriptor)

    def read(self, file: Path, length: int, offset: int) -> bytes:
        """Reads `length` bytes at `offset`; raises BadFile, or TrainingError for an operating-system error."""
        with self._using(file) as descriptor:
            try:
                return os.pread(descriptor, length, offset)
            except OSError as error:
                raise failure(error, file) from None
            except MemoryError as error:
                raise system_error(error, file) or error from None

    def read_into(self, file: Path, length: int, offset: int) -> np.ndarray:
        """Like `read`, for large parts: uint8 array, filled without holding the GIL."""
        with self._using(file) as descriptor:
            try:
                content, filled = np.empty(length, np.uint8), 0
                while (
                    count := os.preadv(descriptor, [content.data[filled:]], offset + filled) if filled < length else 0
                ):
                    filled += count
                return content[:filled]
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
        descriptor = open_regular(file)  # outside the lock: network storage can be slow
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
