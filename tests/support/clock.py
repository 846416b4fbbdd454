"""Clocks for tests."""

import time


class Clock:
    """A clock that the test advances, instead of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    perf_counter = monotonic

    def passes(self, seconds: float) -> None:
        """Advances the clock."""
        self.now += seconds


class ShiftedClock:
    """The real time, which the test advances by the time that slow parts would take."""

    def __init__(self) -> None:
        self.shift = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic() + self.shift

    def passes(self, seconds: float) -> None:
        """Advances the clock."""
        self.shift += seconds
