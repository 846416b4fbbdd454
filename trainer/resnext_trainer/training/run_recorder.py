"""Writes measurements at a position to the log of the run."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.runtime.background import BackgroundThreads
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.run_log import LogRecord, RunLog
from resnext_trainer.training.throughput import MovingThroughput, PhaseFractions

_STEP_RECORDS_PER_EPOCH = 20
"""About 1 MB in log.jsonl for 250 epochs."""
_CLOSE_SECONDS = 10.0


class RunRecorder:
    """Adds the epoch and the phase fractions to each record, and writes it in a thread; does nothing without a log."""

    def __init__(self, log: RunLog | None, plan: EpochPlan, shares: PhaseFractions) -> None:
        """log: None on all ranks but 0."""
        self._log, self._plan, self._phase_fractions = log, plan, shares
        self._thread: BackgroundThreads[None] = BackgroundThreads("run-log")
        self._last: Future[None] | None = None

    def restart(self, step: int) -> None:
        """Removes the records of later steps, because the training continues from this one."""
        if log := self._log:
            self._submit(lambda: log.truncate_after(step))

    def step_done(self, position: TrainingPosition, measured: MovingThroughput, learning_rate: float) -> None:
        """Records about 20 steps per epoch. position: the end of the step."""
        if position.step % max(1, self._plan.steps // _STEP_RECORDS_PER_EPOCH) == 0:
            self.record(
                position,
                loss=measured.loss,
                images_per_second=measured.images_per_second,
                learning_rate=learning_rate,
            )

    def record(self, position: TrainingPosition, **measured: float | None) -> None:
        """Writes a record."""
        if log := self._log:
            epoch = round(self._plan.epochs_done(position), 6)
            fractions = self._phase_fractions.sample()
            record = LogRecord(position.step, epoch, phase_fractions=fractions, time=time.time(), **measured)
            self._submit(lambda: log.add(record))

    def close(self) -> None:
        """Waits until all records are written, but not for a volume that hangs."""
        if self._last:
            wait([self._last], _CLOSE_SECONDS)

    def _submit(self, write: Callable[[], None]) -> None:
        if self._last and self._last.done():
            self._last.result()  # raises what the log does not tolerate
        self._last = self._thread.submit(write)
