"""Writes measurements at a position to the log of the run."""

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.run_log import LogRecord, RunLog
from resnext_trainer.training.throughput import PhaseFractions


class RunRecorder:
    """Adds the epoch and the phase fractions to each record; does nothing without a log."""

    def __init__(self, log: RunLog | None, plan: EpochPlan, shares: PhaseFractions) -> None:
        """log: None on all ranks but 0."""
        self._log, self._plan, self._phase_fractions = log, plan, shares

    def restart(self, step: int) -> None:
        """Removes the records of later steps, because the training continues from this one."""
        if self._log:
            self._log.truncate_after(step)

    def record(self, position: TrainingPosition, **measured: float | None) -> None:
        """Writes a record."""
        if self._log:
            epoch = round(self._plan.epochs_done(position), 6)
            self._log.add(LogRecord(position.step, epoch, phase_fractions=self._phase_fractions.sample(), **measured))
