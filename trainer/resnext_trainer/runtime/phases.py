"""Timer of the phases of a rank."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics, Phase


class PhaseTimer:
    """Times the phases of a rank; each begins and ends with a heartbeat."""

    def __init__(self, metrics: Metrics, heartbeat: Heartbeat) -> None:
        self._metrics, self._heartbeat = metrics, heartbeat
        self.seconds: dict[str, float] = dict.fromkeys(get_args(Phase), 0.0)
        """Time spent in each phase so far."""

    def totals(self) -> dict[str, float]:
        """Seconds spent in each phase so far. Can be called from any thread."""
        return dict(self.seconds)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Adds the duration of the block to this phase."""
        started = time.monotonic()
        self._heartbeat.beat(name)
        try:
            yield
        finally:
            self._heartbeat.beat()
            seconds = time.monotonic() - started
            self._metrics.phase_done(name, seconds)
            self.seconds[name] += seconds
