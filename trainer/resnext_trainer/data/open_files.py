"""Files that stay open between reads. All splits share one pool, so one limit applies to the whole process."""

import os
import resource
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_trainer.data.files import failure, open_regular
from resnext_trainer.errors import system_error

OPEN_FILES = 256
"""Maximum number of shards that one process has open; ImageNet has 1,152."""

_FOR_ONE_READ = 8
"""Descriptors left for files that threads open for a single read: four threads read training images, and four
validation images."""


def affordable() -> int:
    """A quarter of the soft limit, at most OPEN_FILES: libraries and the metrics server need descriptors too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if soft == resource.RLIM_INFINITY else max(1, min(OPEN_FILES, soft // 4))


@dataclass(frozen=True, eq=False, slots=True)
class PooledFile:
    """A file of one owner. Two objects with the same path never share a descriptor: a dataset that is opened after its
    files have been replaced must not read the old ones."""

    path: Path


@dataclass(eq=False)
class _Handle:
    descriptor: int
    users: int = 0


class OpenFiles:
    """Thread-safe pool of open files: an LRU cache, next to files that stay open until they are discarded.

    limit: returns the maximum number of open files, which may change.
    """

    def __init__(self, limit: Callable[[], int] = affordable) -> None:
        self._limit = limit
        self._handles: dict[PooledFile, _Handle] = {}
        """Least recently used first."""
        self._kept, self._opening = 0, 0
        self._discarded: deque[tuple[Sequence[int], Sequence[PooledFile]]] = deque()
        # Not reentrant: a `discard` that the garbage collector calls inside another method must not acquire the lock.
        self._lock = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return len(self._handles) + self._kept + self._opening

    @property
    def has_room(self) -> bool:
        """Whether `keep` may open another file. A quarter of the limit is left to the cache."""
        return self._kept < self._limit() * 3 // 4 - self._reserve

    def keep(self, file: Path) -> int | None:
        """A descriptor that is valid until it is discarded; None if too many files are open.

        Raises the same exceptions as `read`.
        """
        with self._lock:
            if not (self.has_room and self._may_open()):
                return None
            self._kept += 1
            self._close_surplus()
        try:
            return open_regular(file)
        except BaseException:
            with self._lock:
                self._kept -= 1
            raise

    def discard(self, descriptors: Sequence[int], files: Sequence[PooledFile]) -> None:
        """Closes kept descriptors, and these files if they are in the cache and not being read.

        Never blocks, because the garbage collector may call it at any time, even from a method of this object.
        """
        self._discarded.append((descriptors, files))
        if self._lock.acquire(blocking=False):
            try:
                self._close_surplus()
            finally:
                self._lock.release()

    def read(self, file: PooledFile, length: int, offset: int) -> bytes:
        """Reads `length` bytes at `offset`; raises BadFile, or TrainingError for an operating-system error."""
        with self._using(file) as descriptor:
            try:
                return os.pread(descriptor, length, offset)
            except OSError as error:
                raise failure(error, file.path) from None
            except MemoryError as error:
                raise system_error(error, file.path) or error from None

    def read_into(self, file: PooledFile, length: int, offset: int) -> np.ndarray:
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
                raise failure(error, file.path) from None
            except MemoryError as error:
                raise system_error(error, file.path) or error from None

    @property
    def _reserve(self) -> int:
        return min(_FOR_ONE_READ, self._limit() // 8)

    def _may_open(self) -> bool:
        """Whether one more file may be open, once all idle ones are closed."""
        busy = sum(1 for handle in self._handles.values() if handle.users)
        return busy + self._kept + self._opening + self._reserve < self._limit()

    @contextmanager
    def _using(self, file: PooledFile) -> Iterator[int]:
        handle = self._taken(file) or self._opened(file)
        try:
            yield handle.descriptor
        finally:
            with self._lock:
                handle.users -= 1
                self._close_surplus()

    def _taken(self, file: PooledFile) -> _Handle | None:
        """The open file. Otherwise waits until one more may be opened, reserves a descriptor, and returns None."""
        with self._lock:
            self._lock.wait_for(lambda: file in self._handles or self._may_open())
            if (handle := self._handles.pop(file, None)) is None:
                self._opening += 1
                self._close_surplus()
                return None
            self._handles[file] = handle
            handle.users += 1
            return handle

    def _opened(self, file: PooledFile) -> _Handle:
        try:
            descriptor = open_regular(file.path)  # outside the lock: network storage can be slow
        except BaseException:
            with self._lock:
                self._opening -= 1
                self._lock.notify_all()
            raise
        with self._lock:
            self._opening -= 1
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
        """Closes discarded descriptors and files, then the least recently used files above the limit."""
        while self._discarded:
            descriptors, files = self._discarded.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
            self._kept -= len(descriptors)
            self._close_idle(file for file in files if file in self._handles)
        surplus = len(self) + self._reserve - self._limit()
        if surplus > 0:
            self._close_idle([file for file, handle in self._handles.items() if not handle.users][:surplus])
        self._lock.notify_all()

    def _close_idle(self, files: Iterable[PooledFile]) -> None:
        for file in files:
            if not self._handles[file].users:
                os.close(self._handles.pop(file).descriptor)


SHARED = OpenFiles()
"""The pool of this process."""
