"""Epoch after epoch, step after step: trains, evaluates, saves, and goes back to a checkpoint where that may help."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus, Progress
from resnext_trainer.data.input_pipeline import Batch, InputPipeline
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import RankRequests, StepResult, average_statistics
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.training.bad_record_monitor import BadRecordMonitor
from resnext_trainer.training.checkpoint_saver import CheckpointSaver
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.run_recorder import RunRecorder
from resnext_trainer.training.schedule import learning_rate
from resnext_trainer.training.step_runner import NotFiniteError, StepRunner
from resnext_trainer.training.validator import Validator

_RECORDS_PER_EPOCH = 20
"""Lines of log.jsonl: a 250-epoch training makes one megabyte of them."""


@dataclass(eq=False, kw_only=True)
class Trainer:
    """One attempt, from where the last one stopped. The constructor only assigns; `fit` does everything."""

    config: Training
    """`device` is the one that was pinned: gpu or cpu."""
    attempt: int
    ranks: Communicator
    source: InputPipeline
    plan: EpochPlan
    state: TrainState
    steps: StepRunner
    validator: Validator
    checkpoints: CheckpointManager
    saver: CheckpointSaver
    bad_records: BadRecordMonitor
    recorder: RunRecorder
    metrics: Metrics
    console: Console
    heartbeat: Heartbeat
    requests: Requests
    _position: TrainingPosition = field(init=False, default=TrainingPosition())
    _resumed_step: int = field(init=False, default=0)

    def fit(self) -> tuple[ExitStatus, str]:
        """Restores the newest checkpoint, trains, and returns how the training ended, with a sentence about it."""
        self._restore()
        try:
            return self._run()
        finally:
            self.checkpoints.wait()
            self.steps.close()

    def progress(self) -> Progress:
        """How far it is, for people and for the operator."""
        position = self._position
        return Progress(
            attempt=self.attempt,
            epoch=round(self.plan.epochs_done(position), 4),
            epochs=self.config.epochs,
            step=position.step,
            steps=position.step + self.plan.steps_left(position),
            images_per_second=self.steps.throughput.images_per_second,
            loss=self.steps.throughput.loss,
            top1=position.top1,
            top5=position.top5,
            best_top1=position.best_top1,
            checkpoint=self.checkpoints.saved,
            resumed_step=self._resumed_step,
        )

    def _report_progress(self) -> None:
        """For the operator, the watchdog and people."""
        self.heartbeat.progress = progress = self.progress()
        self.console.show(progress)

    def _restore(self) -> None:
        position = self._position = self.checkpoints.restore()
        self._resumed_step = position.step
        if position.step:
            self.console.note(f"resuming from step {position.step}, epoch {position.epoch}")
        if position.top1 is not None:
            self.metrics.accuracy(position.top1, position.top5 or 0.0)
        self.recorder.restart(position.step)
        self.saver.schedule()

    def _run(self) -> tuple[ExitStatus, str]:
        """Trains to the end, or until any rank is asked to stop.

        A loss that is not finite takes the training back to its last checkpoint. The second try differs from the
        first: the images of the epoch that the checkpoint has not seen come in another order, and so in other
        batches, each still once. Where it was a fault of the hardware anything would help; where it was a batch that
        the weights of that moment could not take, meeting other batches is what helped others (Chowdhery et al. 2022,
        arXiv:2204.02311, section 5.1); where the learning rate is too high nothing helps, and the rollbacks end.
        """
        while True:
            try:
                return self._run_epochs()
            except NotFiniteError as trouble:
                self._rollback(str(trouble))
                self.steps.close()

    def _run_epochs(self) -> tuple[ExitStatus, str]:
        while self._position.epoch < self.config.epochs and not self._target_reached():
            if not self._train_epoch():
                average_statistics(self.state, self.ranks)
                self.saver.save(self._position)
                unsaved = self.saver.finish(self._position, stopping=True)
                epochs = self.plan.epochs_done(self._position)
                done = f"epoch {epochs:.2f} of {self.config.epochs}, step {self._position.step}"
                return ExitStatus.STOPPED, f"stopped as asked at {done}{unsaved}"
            self._after_epoch()
        unsaved = self.saver.finish(self._position)
        accuracy = "" if self._position.top1 is None else f", top-1 {self._position.top1:.4f}"
        return ExitStatus.COMPLETED, f"{self._position.epoch} epochs, {self._position.step} steps{accuracy}{unsaved}"

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; False if it was left because a rank was asked to stop."""
        if any(self.ranks.gather(self.requests.stop.is_set())):
            return False
        position = self._position
        batches = self.source.train(position.epoch, position.images, position.redealt)
        while self.plan.has_step(self._position):
            outcome = self._train_step(batches)
            if outcome.stop and self.plan.has_step(self._position):
                return False
            if outcome.save:
                self._save_within_epoch()
            self._report_progress()
        self.bad_records.check_together()
        self._position = self.plan.after_epoch(self._position)
        return True

    def _train_step(self, batches: Iterator[Batch]) -> StepResult:
        config, before, started = self.config, self._position, time.monotonic()
        rate = learning_rate(config.optimizer, self.plan.global_batch, config.epochs, self.plan.epochs_done(before))
        outcome = self.steps.run(
            batches, before, rate, lambda: RankRequests(self.requests.stop.is_set(), self.saver.is_due())
        )
        self.checkpoints.check()
        self.steps.check_finite(outcome, before.step + 1)
        position = self._position = self.plan.after_step(before)
        self.steps.record(outcome, position, rate, time.monotonic() - started)
        self.bad_records.count()
        if position.step % max(1, self.plan.steps // _RECORDS_PER_EPOCH) == 0:
            measured = self.steps.throughput
            self.recorder.record(
                position, loss=measured.loss, images_per_second=measured.images_per_second, learning_rate=rate
            )
        return outcome

    def _save_within_epoch(self) -> None:
        """Saves where the epoch goes on; at its end the evaluation comes first."""
        if self.plan.has_step(self._position):
            self.saver.save_within_epoch(self._position)
        else:
            self.saver.overdue = True

    def _after_epoch(self) -> None:
        """Evaluates and saves, where it is time."""
        epoch, config = self._position.epoch, self.config
        last = epoch == config.epochs
        average_statistics(self.state, self.ranks)
        evaluates = self.source.validation_images and (last or epoch % config.evaluation.interval_epochs == 0)
        if evaluates:
            self._position = self.validator.run(self._position)
            self.bad_records.count()
        due = last or self._target_reached() or epoch % config.checkpoint.interval_epochs == 0 or self.saver.overdue
        if due or evaluates:
            self.saver.save(self._position, newest=due, best=bool(evaluates))
        self._report_progress()

    def _rollback(self, trouble: str) -> None:
        """Takes every rank back to the last checkpoint, or to the start; TrainingError where that was tried enough."""
        tried, allowed = self._position.rollbacks, self.config.max_rollbacks
        if tried >= allowed:
            raise TrainingError(
                ExitStatus.NON_FINITE_LOSS,
                f"{trouble}, after {tried} rollbacks of maxRollbacks {allowed}: lower optimizer.learningRate, or look "
                "at the images",
                collective=True,
            )
        self.state.reset()
        found = self.checkpoints.restore()
        redealt = (*found.redealt, (found.images, tried + 1))
        self._position = dataclasses.replace(found, rollbacks=tried + 1, redealt=redealt)
        self.steps.restart()
        self.saver.schedule()
        self.recorder.restart(found.step)
        self.metrics.rolled_back()
        self.console.note(
            f"{trouble}: back to step {found.step}, the rest of its epoch in another order "
            f"(rollback {tried + 1} of {allowed})"
        )

    def _target_reached(self) -> bool:
        goal, best = self.config.target_top1, self._position.best_top1
        return goal is not None and best is not None and best >= goal
