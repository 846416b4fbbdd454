"""A clock for tests."""


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
