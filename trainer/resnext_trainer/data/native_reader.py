"""Binding of the record reader in C (trainer/native), which reads and checks records without holding the GIL.

The library comes with the package resnext-native. Without it, every record is read in Python, with the same results.
"""

import ctypes
import logging
from functools import cache

import numpy as np

from resnext_trainer.data.datasets.record_index import LAYOUT
from resnext_trainer.data.shard_files import Located

log = logging.getLogger(__name__)

_INTERFACE = 1

_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = [ctypes.c_void_p, ctypes.c_ssize_t], ctypes.py_object
_address_of = ctypes.pythonapi.PyBytes_AsString
_address_of.argtypes, _address_of.restype = [ctypes.py_object], ctypes.c_void_p


class NativeReader:
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._read = library.record_reader_read
        self._read.argtypes, self._read.restype = [ctypes.c_int64, *[ctypes.c_void_p] * 8], None
        self._crc32c = library.record_reader_crc32c
        self._crc32c.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
        self._crc32c.restype = ctypes.c_uint32

    def read(
        self,
        located: Located,
        offsets: np.ndarray,
        lengths: np.ndarray,
        layouts: np.ndarray,
    ) -> list[bytes | None]:
        """The JPEGs of records that match their layouts (all known); None for every other record.

        offsets, lengths: of the records in their shards, in bytes.
        """
        count = len(layouts)
        sizes: list[int] = layouts["size"].tolist()
        # Uninitialized bytes objects, which the C API allows their creator to fill: the library writes into them, so
        # nothing is copied.
        jpegs = [_new_bytes(None, size) for size in sizes]
        addresses = np.array([_address_of(jpeg) for jpeg in jpegs], np.uintp)
        good = np.zeros(count, np.uint8)
        arguments = (
            *located,
            np.ascontiguousarray(offsets, np.int64),
            np.ascontiguousarray(lengths, np.int64),
            np.ascontiguousarray(layouts, LAYOUT),
            addresses,
            good,
        )
        self._read(count, *(each.ctypes.data for each in arguments))
        return [jpeg if ok else None for jpeg, ok in zip(jpegs, good.tolist(), strict=True)]

    def crc32c(self, content: bytes, *, portable: bool = False) -> int:
        """CRC-32C; portable: without the CPU's instruction for it."""
        return int(self._crc32c(content, len(content), portable))


@cache
def load() -> NativeReader | None:
    """The library if it is installed and has this interface."""
    try:
        from resnext_native import RECORD_READER

        library = ctypes.CDLL(str(RECORD_READER))
        if library.record_reader_interface() != _INTERFACE:
            raise OSError("its interface version differs from the required one")
    except (ImportError, OSError, AttributeError) as error:
        log.info("records are read in Python, which is slower: resnext-native cannot be loaded (%s)", error)
        return None
    return NativeReader(library)
