"""Search for the largest batch size that fits into the memory of a device."""

from collections.abc import Callable
from enum import Enum

_PRECISION = 8
"""The search ends when the smallest batch size that failed is at most an eighth larger than the largest that fits: XLA
compiles ResNeXt101-32x4d for 60 to 80 s on an H100 or H200 for each batch size (2026-11-27)."""


class Outcome(Enum):
    """Result of a batch size."""

    FITS = "fits"
    TOO_LARGE = "too large"
    """Out of memory, or too slow."""
    FAILED = "failed"
    """For another reason, which may or may not depend on the batch size: a library may crash on large tensors."""
    STOP = "stop"
    """No further batch size can be tried."""


def largest_batch(attempt: Callable[[int], Outcome], first: int, limit: int, step: int) -> int | None:
    """The largest batch size that was seen to fit; None if there is none.

    Doubles from `first` until a batch size does not fit, or halves until one does, and bisects between the two.

    attempt: called at most once for each batch size. limit: largest batch size to try. step: batch sizes are multiples
    of it, if `limit` and `first` allow; 8 on GPUs, whose tensor cores process multiples of 8.
    """
    fits: int | None = None
    batch = min(_multiple(first, step), limit)
    while True:
        outcome = attempt(batch)
        if outcome is Outcome.STOP:
            return fits
        if outcome is not Outcome.FITS:
            if fits is not None:
                return _bisect(attempt, fits, batch, step)
            if outcome is Outcome.FAILED or batch <= step:
                return None
            return _halve(attempt, batch, step)
        fits = batch
        if batch >= limit:
            return fits
        batch = min(2 * batch, limit)


def _halve(attempt: Callable[[int], Outcome], fails: int, step: int) -> int | None:
    while fails > step:
        batch = _multiple(fails // 2, step)
        match attempt(batch):
            case Outcome.FITS:
                return _bisect(attempt, batch, fails, step)
            case Outcome.TOO_LARGE:
                fails = batch
            case Outcome.FAILED | Outcome.STOP:
                return None
    return None


def _bisect(attempt: Callable[[int], Outcome], fits: int, fails: int, step: int) -> int:
    """fits: the largest batch size known to fit; fails: the smallest larger one known to fail."""
    while fails - fits > max(step, fits // _PRECISION):
        batch = max(fits + 1, _multiple((fits + fails) // 2, step))
        if batch >= fails:
            break
        match attempt(batch):
            case Outcome.FITS:
                fits = batch
            case Outcome.STOP:
                break
            case Outcome.TOO_LARGE | Outcome.FAILED:
                fails = batch
    return fits


def _multiple(batch: int, step: int) -> int:
    """The largest multiple of `step` up to `batch`, at least `step`."""
    return max(step, batch // step * step)
