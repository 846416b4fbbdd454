"""Libraries of resnext-train in C. The trainer works without them, more slowly."""

from pathlib import Path


def _library(name: str) -> Path | None:
    return next(Path(__file__).parent.glob(f"{name}.*so"), None)


RECORD_READER = _library("record_reader")
"""The library of record_reader.c, which ctypes loads."""

IMAGE_DECODER = _library("image_decoder")
"""The library of image_decoder.c, which ctypes loads."""

SLEEPING_YIELD = _library("sleeping_yield")
"""The library of sleeping_yield.c, for LD_PRELOAD."""
