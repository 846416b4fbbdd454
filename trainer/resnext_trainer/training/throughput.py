"""Loss and speed over the last seconds of training, and where its time goes."""

import time
from collections import deque
from collections.abc import Mapping

_RECENT_SECONDS = 10.0


class MovingThroughput:
    """The steps of the last seconds."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, float, float]] = deque()

    def add(self, images: int, seconds: float, loss: float) -> None:
        """A step of so many images took so long."""
        now = time.monotonic()
        self._steps.append((now, images, seconds, loss))
        while self._steps[0][0] < now - _RECENT_SECONDS:
            self._steps.popleft()

    @property
    def images_per_second(self) -> float | None:
        """Over the time spent in steps: evaluations and checkpoints between them do not count."""
        seconds = sum(step[2] for step in self._steps)
        return sum(step[1] for step in self._steps) / seconds if seconds else None

    @property
    def loss(self) -> float | None:
        """The mean over the steps."""
        return sum(step[3] for step in self._steps) / len(self._steps) if self._steps else None


class PhaseFractions:
    """Each phase's share of the time, from one look to the next."""

    def __init__(self, phase_seconds: Mapping[str, float]) -> None:
        """phase_seconds: time spent in each phase so far; it is kept, and grows."""
        self._phase_seconds = phase_seconds
        self._before, self._since = dict(phase_seconds), time.monotonic()

    def sample(self) -> dict[str, float]:
        """The shares since the last look; what is in no phase is missing from their sum."""
        now, seconds = time.monotonic(), dict(self._phase_seconds)
        passed = max(now - self._since, 1e-9)
        phase_fractions = {phase: round((seconds[phase] - self._before[phase]) / passed, 4) for phase in seconds}
        self._before, self._since = seconds, now
        return phase_fractions
