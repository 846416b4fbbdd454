"""Training loop: epochs of steps, each epoch followed by evaluation and checkpoint."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus, Progress
from resnext_trainer.data.input_pipeline import Batch, InputPipeline
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import RankRequests, StepResult, average_statistics
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import ALLREDUCE
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.training.bad_record_monitor import BadRecordMonitor
from resnext_trainer.training.checkpoint_saver import CheckpointSaver
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.progress_reporter import ProgressReporter
from resnext_trainer.training.rollback import Rollback
from resnext_trainer.training.run_recorder import RunRecorder
from resnext_trainer.training.schedule import learning_rate
from resnext_trainer.training.step_runner import NotFiniteError, StepRunner
from resnext_trainer.training.validator import Validator


@dataclass(eq=False, kw_only=True)
class Trainer:
    """One attempt of a training. It resumes from the newest checkpoint. The constructor only assigns fields."""

    config: Training
    """Its `device` is the pinned one: gpu or cpu."""
    communicator: Communicator
    source: InputPipeline
    plan: EpochPlan
    state: TrainState
    steps: StepRunner
    validator: Validator
    checkpoints: CheckpointManager
    saver: CheckpointSaver
    rollback: Rollback
    bad_records: BadRecordMonitor
    recorder: RunRecorder
    reporter: ProgressReporter
    metrics: Metrics
    phases: PhaseTimer
    console: Console
    requests: Requests
    _position: TrainingPosition = field(init=False, default=TrainingPosition())

    def fit(self) -> tuple[ExitStatus, str]:
        """Restores the newest checkpoint and trains. Returns the exit status and a message.

        The status is COMPLETED, or STOPPED after a stop request on any rank. A non-finite loss causes a rollback to the
        last checkpoint. Raises TrainingError on failure.
        """
        with self.phases.phase("checkpoint"):
            self._restore()
        try:
            while True:
                try:
                    return self._train_epochs()
                except NotFiniteError as error:
                    with self.phases.phase("rollback"):
                        self._position = self.rollback.run(self._position, str(error))
                        self.steps.close()
        finally:
            self.checkpoints.wait()
            self.steps.close()
            self.recorder.close()

    def progress(self) -> Progress:
        """Progress of the training."""
        return self.reporter.progress(self._position)

    def _restore(self) -> None:
        position = self._position = self.checkpoints.restore()
        self.reporter.resumed_step = position.step
        if position.step:
            self.console.note(f"resuming from step {position.step}, epoch {position.epoch}")
        if position.top1 is not None:
            self.metrics.accuracy(position.top1, position.top5 or 0.0)
        self.recorder.restart(position.step)
        self.saver.schedule()

    def _train_epochs(self) -> tuple[ExitStatus, str]:
        """Trains until the last epoch, the target accuracy, or a stop request on any rank."""
        while self._position.epoch < self.config.epochs and not self._target_reached():
            if not self._train_epoch():
                return self._stop()
            self._end_epoch()
        return self._complete()

    def _train_epoch(self) -> bool:
        """Trains the rest of the current epoch. Returns False after a stop request on any rank."""
        with self.phases.phase(ALLREDUCE):
            if any(self.communicator.gather(self.requests.stop.is_set())):
                return False
        position = self._position
        try:
            stopped = self._train_steps(self.source.train(position.epoch, position.images, position.redealt))
        finally:
            self.reporter.report(self._position)
        if stopped:
            return False
        with self.phases.phase(ALLREDUCE):
            self.bad_records.check_together()
        self._position = self.plan.after_epoch(self._position)
        return True

    def _train_steps(self, batches: Iterator[Batch]) -> bool:
        """Trains the steps of these batches. Returns whether a stop request on any rank ended them."""
        while self.plan.has_step(self._position):
            outcome = self._train_step(batches)
            if outcome.stop and self.plan.has_step(self._position):
                return True
            if outcome.save and self.plan.has_step(self._position):
                with self.phases.phase("checkpoint"):
                    self.saver.save_within_epoch(self._position)
            elif outcome.save:
                self.saver.postpone()
            self.reporter.step_done(self._position)
        return False

    def _train_step(self, batches: Iterator[Batch]) -> StepResult:
        config, before, started = self.config, self._position, time.monotonic()
        position = self.plan.after_step(before)
        rate = learning_rate(config.optimizer, self.plan.global_batch, config.epochs, self.plan.epochs_done(before))
        outcome = self.steps.run(
            batches, before, position, rate, lambda: RankRequests(self.requests.stop.is_set(), self.saver.is_due())
        )
        self.checkpoints.check()
        self.steps.check_finite(outcome, position.step)
        self._position = position
        self.steps.record(outcome, rate, time.monotonic() - started)
        self.bad_records.count()
        self.recorder.step_done(position, self.steps.throughput, rate)
        return outcome

    def _end_epoch(self) -> None:
        """Evaluates and saves a checkpoint, if due."""
        epoch = self._position.epoch
        last = epoch == self.config.epochs
        with self.phases.phase(ALLREDUCE):
            average_statistics(self.state, self.communicator)
        interval = self.config.evaluation.interval_epochs
        evaluates = bool(self.source.validation_images) and (last or epoch % interval == 0)
        if evaluates:
            self._position = self.validator.run(self._position)
            self.bad_records.count()
        with self.phases.phase("checkpoint"):
            self.saver.save_after_epoch(self._position, ends=last or self._target_reached(), evaluated=evaluates)
        self.reporter.report(self._position)

    def _stop(self) -> tuple[ExitStatus, str]:
        """Saves a checkpoint after a stop request."""
        with self.phases.phase(ALLREDUCE):
            average_statistics(self.state, self.communicator)
        with self.phases.phase("checkpoint"):
            self.saver.save_stopped(self._position)
            unsaved = self.saver.finish(self._position, stopping=True)
        epochs = self.plan.epochs_done(self._position)
        done = f"epoch {epochs:.2f} of {self.config.epochs}, step {self._position.step}"
        return ExitStatus.STOPPED, f"stopped as requested at {done}{unsaved}"

    def _complete(self) -> tuple[ExitStatus, str]:
        """Waits until the last checkpoint is written."""
        position = self._position
        with self.phases.phase("checkpoint"):
            unsaved = self.saver.finish(position)
        accuracy = "" if position.top1 is None else f", top-1 {position.top1:.4f}"
        return ExitStatus.COMPLETED, f"{position.epoch} epochs, {position.step} steps{accuracy}{unsaved}"

    def _target_reached(self) -> bool:
        target, best = self.config.target_top1, self._position.best_top1
        return target is not None and best is not None and best >= target
