"""Partition of a rank's wall time into phases."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics, Phase


class PhaseTimer:
    """Attributes every moment of the main thread to a phase; `other` is the time outside all other phases.

    The main thread does not wait for the device after each part of a step. The time of such a step is divided among
    `compute`, `allreduce` and `optimizer` in the proportions of the last step that was measured part by part.
    """

    def __init__(self, metrics: Metrics, heartbeat: Heartbeat, started: float | None = None) -> None:
        """started: time.monotonic() at the start of the process; None for now."""
        self._metrics, self._heartbeat = metrics, heartbeat
        self._seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)
        self._lock = threading.Lock()
        self._current: Mapping[Phase, float] = {"other": 1.0}
        self._step: Mapping[Phase, float] = {"compute": 1.0}
        self._since = time.monotonic() if started is None else started

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Adds the time in the block to this phase, except that of phases within the block.

        The block begins and ends with a heartbeat.
        """
        with self._spend({name: 1.0}, name):
            yield

    @contextmanager
    def part_of_step(self, name: Phase) -> Iterator[None]:
        """Like `phase`, for a block that does not wait for the device: its time is divided as described above."""
        with self._spend(self._step, name):
            yield

    def calibrate(self, seconds: Mapping[Phase, float]) -> None:
        """Sets the proportions of the parts of a step. seconds: duration of each part, measured by `phase`."""
        total = sum(seconds.values())
        self._step = {name: each / total for name, each in seconds.items()}

    def totals(self) -> dict[Phase, float]:
        """Seconds spent in each phase so far; also updates the metrics. Can be called from any thread."""
        with self._lock:
            self._count()
            return dict(self._seconds)

    @contextmanager
    def _spend(self, shares: Mapping[Phase, float], doing: Phase) -> Iterator[None]:
        before = self._change(shares)
        self._heartbeat.beat(doing)
        try:
            yield
        finally:
            self._heartbeat.beat()
            self._change(before)

    def _change(self, shares: Mapping[Phase, float]) -> Mapping[Phase, float]:
        """From now on, divides the time in the proportions `shares`; returns the previous proportions."""
        with self._lock:
            self._count()
            before, self._current = self._current, shares
            return before

    def _count(self) -> None:
        """Attributes the time since the last call."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        for name, share in self._current.items():
            self._seconds[name] += share * passed
            self._metrics.phase_done(name, share * passed)


def process_start() -> float:
    """Time of time.monotonic() at which this process started."""
    # Field 22: clock ticks between boot and the start. Field 2, the name, may contain spaces and ends with a bracket.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
