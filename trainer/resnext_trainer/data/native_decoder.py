"""Decodes and resizes batches of JPEGs in C, without holding the GIL; the source is native/image_decoder.c."""

import ctypes
import functools
from collections.abc import Sequence

import numpy as np

from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.decoding import Decoding

_INTERFACE = 1
_DECODED, _UNDECODABLE, _OUT_OF_MEMORY = range(3)


class DecodeError(Exception):
    """An image of a batch was not decoded."""

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


def available() -> bool:
    """Whether the library is installed in the version that this module needs."""
    return _library() is not None


def decode(jpegs: Sequence[bytes], cuts: Sequence[CropWindow], decoding: Decoding, threads: int) -> np.ndarray:
    """Decodes, resizes and flips crop windows; returns uint8 [batch, size, size, 3].

    Raises DecodeError if an image cannot be decoded or memory is exhausted.
    """
    if (library := _library()) is None:
        raise DecodeError("the package resnext-native is not installed")
    count = len(jpegs)
    pointers = (ctypes.c_char_p * count)(*jpegs)
    lengths = np.array([len(jpeg) for jpeg in jpegs], np.uintp)
    windows = np.array([cut.numbers for cut in cuts], np.float32)
    images = np.empty((count, decoding.size, decoding.size, 3), np.uint8)
    statuses = np.empty(count, np.uint8)
    library.image_decoder_decode(
        pointers,
        lengths.ctypes.data,
        windows.ctypes.data,
        count,
        decoding.size,
        decoding.antialias,
        decoding.fast,
        threads,
        images.ctypes.data,
        statuses.ctypes.data,
    )
    if (statuses == _OUT_OF_MEMORY).any():
        raise DecodeError("memory is exhausted", out_of_memory=True)
    if (bad := np.flatnonzero(statuses)).size:
        raise DecodeError(f"{bad.size} of {count} images cannot be decoded")
    return images


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        from resnext_native import IMAGE_DECODER
    except ImportError:
        return None
    if IMAGE_DECODER is None:
        return None
    library = ctypes.CDLL(str(IMAGE_DECODER))
    if library.image_decoder_interface() != _INTERFACE:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.image_decoder_decode.argtypes = [*[pointer] * 3, *[number] * 5, *[pointer] * 2]
    library.image_decoder_decode.restype = None
    return library
