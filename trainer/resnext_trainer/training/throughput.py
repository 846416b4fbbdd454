"""Recent loss and throughput, and the fraction of time spent in each phase."""

import time
from collections import deque

from resnext_trainer.runtime.phases import PhaseTimer

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

    def __init__(self, phases: PhaseTimer) -> None:
        self._phases = phases
        self._before = phases.totals()

    def sample(self) -> dict[str, float]:
        """Fractions since the last sample; their sum is 1."""
        totals = self._phases.totals()
        spent = {phase: seconds - self._before[phase] for phase, seconds in totals.items()}
        passed = max(sum(spent.values()), 1e-9)
        self._before = totals
        return {phase: round(seconds / passed, 4) for phase, seconds in spent.items()}
