"""The bytes of records in shard files."""

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from resnext_trainer.data import open_files
from resnext_trainer.data.files import open_regular
from resnext_trainer.data.open_files import PooledFile
from resnext_trainer.data.read_count import ReadCount


class Located(NamedTuple):
    """Where each of several records is: at an address in memory or, if that is 0, in an open file or, if its descriptor
    is -1, in a file to be opened."""

    descriptors: np.ndarray
    """int32."""
    addresses: np.ndarray
    """uintp, like the next."""
    paths: np.ndarray
    """Addresses of paths that end with a zero byte."""


class RecordSource(Protocol):
    """Source of the bytes of records, by record number."""

    def read(self, number: int) -> bytes:
        """A record; shorter than expected if the file is. Raises BadFile, or TrainingError for a system error."""

    def located(self, numbers: np.ndarray) -> AbstractContextManager[Located]:
        """The places of these records, which are valid in this context; raises the same errors."""

    def finish(self, numbers: np.ndarray) -> None:
        """These records are not needed any more."""


class ShardFiles(RecordSource):
    """Reads each record from its file when it is needed.

    The native reader uses descriptors that stay open, for as many files as may be open, and opens other files itself
    for each record: with records in random order, no choice of the files to keep open is better.
    """

    def __init__(self, files: Sequence[Path], file: np.ndarray, offset: np.ndarray, length: np.ndarray) -> None:
        """file, offset, length: index into `files` and position in bytes, for each record."""
        self._file, self._offset, self._length = file, offset, length
        self._files = [PooledFile(path) for path in files]
        """Where each file is read from."""
        self._names = [os.fsencode(path) + b"\0" for path in files]
        self._addresses = np.array([_address(name) for name in self._names], np.uintp)
        self.reads = ReadCount()
        self._open = open_files.SHARED
        self._descriptors = np.full(len(files), -1, np.int32)
        self._lock = threading.Lock()

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self._open.discard(self._descriptors[self._descriptors >= 0].tolist(), self._files)

    @property
    def paths(self) -> list[Path]:
        """Where each file is read from."""
        return [file.path for file in self._files]

    def use_copy(self, file: int, copy: Path) -> None:
        """Reads a file from this copy of it from now on."""
        name = os.fsencode(copy) + b"\0"
        with self._lock:
            self._names.append(name)  # next to the old name, which other threads may be using
            self._open.discard((), [self._files[file]])
            self._files[file], self._addresses[file] = PooledFile(copy), _address(name)
            if self._descriptors[file] >= 0:
                # Other threads may be using the descriptor: it refers to the copy, which has the same content.
                os.dup2(descriptor := open_regular(copy), int(self._descriptors[file]))
                os.close(descriptor)

    def read(self, number: int) -> bytes:
        file, length = self._files[self._file[number]], int(self._length[number])
        self.reads.add(1, length)
        return self._open.read(file, length, int(self._offset[number]))

    def located(self, numbers: np.ndarray) -> AbstractContextManager[Located]:
        files = self._file[numbers]
        if self._open.has_room:
            self._keep_open(files)
        return nullcontext(Located(self._descriptors[files], np.zeros(len(files), np.uintp), self._addresses[files]))

    def finish(self, numbers: np.ndarray) -> None:
        """Nothing is kept."""

    def read_span(self, first: int, end: int) -> np.ndarray:
        """The bytes of consecutive records of one shard, in one request; fewer if the file is shorter."""
        size = int(self._offset[end - 1] + self._length[end - 1] - self._offset[first])
        self.reads.add(1, size)
        return self._open.read_into(self._files[self._file[first]], size, int(self._offset[first]))

    def span(self, number: int, first: int) -> slice:
        """Position of a record in the bytes that begin with record `first` of the same shard."""
        begin = int(self._offset[number] - self._offset[first])
        return slice(begin, begin + int(self._length[number]))

    def _keep_open(self, files: np.ndarray) -> None:
        for file in np.unique(files[self._descriptors[files] < 0]).tolist():
            with self._lock:
                if self._descriptors[file] < 0:
                    if (descriptor := self._open.keep(self._files[file].path)) is None:
                        return
                    self._descriptors[file] = descriptor


def _address(content: bytes) -> int:
    return int(np.frombuffer(content, np.uint8).__array_interface__["data"][0])
