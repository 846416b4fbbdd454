"""Recent loss and throughput, and the fraction of time spent in each phase."""

import time
from collections import deque
from collections.abc import Mapping

_RECENT_SECONDS = 10.0


class MovingThroughput:
    """Mean over the steps of the last 10 seconds."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, float, float]] = deque()

    def add(self, images: int, seconds: float, loss: float) -> None:
        """Adds a step. seconds: its duration."""
        now = time.monotonic()
        self._steps.append((now, images, seconds, loss))
        while self._steps[0][0] < now - _RECENT_SECONDS:
            self._steps.popleft()

    @property
    def images_per_second(self) -> float | None:
        """Images per second of time spent in steps, which excludes evaluations and checkpoints; None without steps."""
        seconds = sum(step[2] for step in self._steps)
        return sum(step[1] for step in self._steps) / seconds if seconds else None

    @property
    def loss(self) -> float | None:
        """Mean loss; None without steps."""
        return sum(step[3] for step in self._steps) / len(self._steps) if self._steps else None


class PhaseFractions:
    """Fraction of the time spent in each phase between two samples."""

    def __init__(self, phase_seconds: Mapping[str, float]) -> None:
        """phase_seconds: total seconds per phase, updated by the caller."""
        self._phase_seconds = phase_seconds
        self._before, self._since = dict(phase_seconds), time.monotonic()

    def sample(self) -> dict[str, float]:
        """Fractions since the last sample. Their sum is below 1 by the time spent outside all phases."""
        now, seconds = time.monotonic(), dict(self._phase_seconds)
        passed = max(now - self._since, 1e-9)
        phase_fractions = {phase: round((seconds[phase] - self._before[phase]) / passed, 4) for phase in seconds}
        self._before, self._since = seconds, now
        return phase_fractions
