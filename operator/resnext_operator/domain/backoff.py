"""Exponential backoff."""

from datetime import timedelta
from typing import TypeVar

_Delay = TypeVar("_Delay", float, timedelta)

# Exceeds all limits in use, and prevents an overflow.
_MAX_DOUBLINGS = 10


def exponential_delay(first: _Delay, limit: _Delay, doublings: int) -> _Delay:
    """The first delay, doubled `doublings` times, up to a limit."""
    return min(first * float(2 ** min(doublings, _MAX_DOUBLINGS)), limit)
