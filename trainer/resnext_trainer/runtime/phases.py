"""Partition of a rank's wall time into phases."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics, Phase

_WHOLE: Mapping[Phase, Mapping[Phase, float]] = {name: {name: 1.0} for name in get_args(Phase)}


class PhaseTimer:
    """Attributes every moment of the main thread to a phase; `other` is the time outside all other phases.

    The main thread does not wait for the device after each part of a step. The time of such a step is divided among
    `compute`, `allreduce` and `optimizer` in the proportions of the last step that was measured part by part.
    """

    def __init__(self, metrics: Metrics, heartbeat: Heartbeat, started: float | None = None) -> None:
        """started: time.monotonic() at the start of the process; None for now."""
        self._metrics, self._heartbeat = metrics, heartbeat
        self._seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)
        self._published = dict(self._seconds)
        self._lock = threading.Lock()
        self._current: Mapping[Phase, float] = _WHOLE["other"]
        self._step: Mapping[Phase, float] = _WHOLE["compute"]
        self._since = time.monotonic() if started is None else started

    def phase(self, name: Phase) -> "_Block":
        """Adds the time in the block to this phase, except that of phases within the block.

        The block begins and ends with a heartbeat.
        """
        return _Block(self, _WHOLE[name], name)

    def part_of_step(self, name: Phase) -> "_Block":
        """Like `phase`, for a block that does not wait for the device: its time is divided as described above."""
        return _Block(self, self._step, name)

    def calibrate(self, seconds: Mapping[Phase, float]) -> None:
        """Sets the proportions of the parts of a step. seconds: duration of each part, measured by `phase`."""
        total = sum(seconds.values())
        self._step = {name: each / total for name, each in seconds.items()}

    def totals(self) -> dict[Phase, float]:
        """Seconds spent in each phase so far; also updates the metrics. Can be called from any thread."""
        with self._lock:
            self._count()
            for name, seconds in self._seconds.items():
                self._metrics.phase_done(name, seconds - self._published[name])
            self._published = dict(self._seconds)
            return self._published

    def change(self, shares: Mapping[Phase, float], doing: Phase | None = None) -> Mapping[Phase, float]:
        """From now on, divides the time in the proportions `shares`; returns the previous proportions."""
        with self._lock:
            self._count()
            before, self._current = self._current, shares
        self._heartbeat.beat(doing)
        return before

    def _count(self) -> None:
        """Attributes the time since the last call."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        for name, share in self._current.items():
            self._seconds[name] += share * passed


class _Block:
    """A block whose time belongs to a phase. A class, because a generator takes twice as long to enter and leave."""

    __slots__ = ("_before", "_doing", "_shares", "_timer")

    def __init__(self, timer: PhaseTimer, shares: Mapping[Phase, float], doing: Phase) -> None:
        self._timer, self._shares, self._doing = timer, shares, doing

    def __enter__(self) -> None:
        self._before = self._timer.change(self._shares, self._doing)

    def __exit__(self, *_error: object) -> None:
        self._timer.change(self._before)


def process_start() -> float:
    """Time of time.monotonic() at which this process started."""
    # Field 22: clock ticks between boot and the start. Field 2, the name, may contain spaces and ends with a bracket.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
