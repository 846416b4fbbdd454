"""What is measured at a position, as a record of the run's log."""

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.run_log import LogRecord, RunLog
from resnext_trainer.training.throughput import PhaseFractions


class RunRecorder:
    """Completes records by the epoch and the phases' shares of the time; without a log it does nothing."""

    def __init__(self, log: RunLog | None, plan: EpochPlan, shares: PhaseFractions) -> None:
        """log: rank 0 alone has one."""
        self._log, self._plan, self._phase_fractions = log, plan, shares

    def restart(self, step: int) -> None:
        """The training goes on from this step: records of later steps are removed."""
        if self._log:
            self._log.truncate_after(step)

    def record(self, position: TrainingPosition, **measured: float | None) -> None:
        """One more record."""
        if self._log:
            epoch = round(self._plan.epochs_done(position), 6)
            self._log.add(LogRecord(position.step, epoch, phase_fractions=self._phase_fractions.sample(), **measured))
