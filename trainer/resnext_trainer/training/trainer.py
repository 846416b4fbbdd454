"""Epoch after epoch, step after step: trains, evaluates, saves, and goes back to a checkpoint where that may help."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.checkpoint.final_save import FinalSave
from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus, Progress
from resnext_trainer.data.input_pipeline import Batch, InputPipeline
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import (
    Requests,
    StepResult,
    average_statistics,
    averaged_variables,
    is_finite,
    train_step,
)
from resnext_trainer.runtime import signals
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.telemetry import Phase, Telemetry
from resnext_trainer.training.evaluate import Accuracy, evaluate
from resnext_trainer.training.profiler import Profiler
from resnext_trainer.training.run_log import SCALARS, LogRecord, RunLog
from resnext_trainer.training.schedule import learning_rate
from resnext_trainer.training.throughput import MovingThroughput, PhaseFractions

# From 2^15 down to below 1 takes a dynamic loss scale 16 halvings: more overflows in a row are no matter of scale.
_OVERFLOWS_IN_A_ROW = 25

_ENTRIES_PER_EPOCH = 20
"""Lines of log.jsonl: a 250-epoch training makes one megabyte of them."""


class _NotFinite(Exception):
    """Raised on every rank alike, because what it is judged by is the ranks' average."""


class Trainer:
    """One attempt, from where the last one left off."""

    def __init__(
        self,
        config: Training,
        attempt: int,
        ranks: Communicator,
        source: InputPipeline,
        telemetry: Telemetry,
        requests: signals.Requests,
        run: Resumption | None,
    ) -> None:
        """`config.device` is the one that was pinned: gpu or cpu. Rank 0 alone has the run."""
        self._config, self._attempt, self._ranks, self._source = config, attempt, ranks, source
        self._telemetry, self._signals = telemetry, requests
        self._global_batch = config.global_batch(ranks.size)
        self._steps_per_epoch = source.training_images // self._global_batch
        if not self._steps_per_epoch:
            raise TrainingError(
                ExitStatus.CONFIGURATION_REFUSED,
                f"one step takes {self._global_batch} images (batchSize {config.batch_size} x gradientAccumulation "
                f"{config.gradient_accumulation} on {ranks.size} ranks) and there are {source.training_images}: lower "
                "batchSize, or use fewer workers",
                collective=True,
            )
        self._state = TrainState(config, config.device)
        self._keeper = CheckpointManager(config, attempt, ranks, self._state, telemetry, run)
        self._journal = RunLog(run.folder, self._journal_failed) if run else None
        self._profiler = (
            Profiler(requests.profile, config.profile_steps, run.folder / SCALARS, telemetry.note) if run else None
        )
        self._recent, self._shares = MovingThroughput(), PhaseFractions(telemetry.phase_seconds)
        self._overflows, self._compiled, self._bad_records = 0, False, 0
        self._save_again = math.inf
        """When the next checkpoint within an epoch is due; rank 0's clock counts."""
        self._time_to_save = False
        self._position = self._restore()
        self._resumed_step = self._position.step

    def fit(self) -> tuple[ExitStatus, str]:
        """Trains, and says how it ended, with a sentence about it.

        A loss that is not finite takes the training back to its last checkpoint. The second try differs from the
        first: the images of the epoch that the checkpoint has not seen come in another order, and so in other
        batches, each still once. Where it was a fault of the hardware anything would help; where it was a batch that
        the weights of that moment could not take, meeting other batches is what helped others (Chowdhery et al. 2022,
        arXiv:2204.02311, section 5.1); where the learning rate is too high nothing helps, and the rollbacks end.
        """
        while True:
            try:
                return self._run_epochs()
            except _NotFinite as trouble:
                self._rollback(str(trouble))
            finally:
                self._keeper.wait()
                if self._profiler:
                    self._profiler.close()

    def progress(self) -> Progress:
        """How far it is, for people and for the operator."""
        position, config = self._position, self._config
        left = (self._source.training_images - position.images) // self._global_batch
        left += (config.epochs - position.epoch - 1) * self._steps_per_epoch
        return Progress(
            attempt=self._attempt,
            epoch=round(self._epochs_done(), 4),
            epochs=config.epochs,
            step=position.step,
            steps=position.step + max(0, left),
            images_per_second=self._recent.images_per_second,
            loss=self._recent.loss,
            top1=position.top1,
            top5=position.top5,
            best_top1=position.best_top1,
            checkpoint=self._keeper.saved,
            resumed_step=self._resumed_step,
        )

    def _restore(self) -> TrainingPosition:
        """Takes up the newest checkpoint."""
        config, ranks, telemetry = self._config, self._ranks, self._telemetry
        telemetry.info(
            architecture=config.model.architecture,
            precision=config.precision.mode,
            xla=str(config.xla).lower(),
            pipeline=self._source.name,
            device=config.device,
            world_size=str(ranks.size),
        )
        telemetry.note(
            f"{config.model.architecture} ({self._state.model.count():,} weights) on {ranks.size} x {config.device}, "
            f"{config.precision.mode}, {self._source.name}: {self._source.training_images:,} images, "
            f"{self._steps_per_epoch} steps of {self._global_batch} an epoch, {config.epochs} epochs"
        )
        position = self._keeper.restore()
        if position.step:
            telemetry.note(f"resuming from step {position.step}, epoch {position.epoch}")
        if position.top1 is not None:
            telemetry.accuracy(position.top1, position.top5 or 0.0)
        if self._journal:
            self._journal.truncate_after(position.step)
        self._plan_save()
        return position

    def _run_epochs(self) -> tuple[ExitStatus, str]:
        while self._position.epoch < self._config.epochs and not self._target_reached():
            if not self._train_epoch():
                average_statistics(self._state, self._ranks)
                self._save()
                unsaved = self._finish_saving(stopping=True)
                done = f"epoch {self._epochs_done():.2f} of {self._config.epochs}, step {self._position.step}"
                return ExitStatus.STOPPED, f"stopped as asked at {done}{unsaved}"
            self._after_epoch()
        unsaved = self._finish_saving()
        accuracy = "" if self._position.top1 is None else f", top-1 {self._position.top1:.4f}"
        return ExitStatus.FINISHED, f"{self._position.epoch} epochs, {self._position.step} steps{accuracy}{unsaved}"

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; False if it was left because a rank was asked to stop."""
        if any(self._ranks.gather(self._signals.stop.is_set())):
            return False
        position = self._position
        batches = self._source.train(position.epoch, position.images, position.redealt)
        while self._fits_another_step():
            outcome = self._train_step(batches)
            if outcome.stop and self._fits_another_step():
                return False
            if outcome.save:
                self._save_within_epoch()
            self._telemetry.progress(self.progress())
        self._check_bad_records()
        self._position = dataclasses.replace(self._position, epoch=position.epoch + 1, images=0, redealt=())
        return True

    def _fits_another_step(self) -> bool:
        return self._position.images + self._global_batch <= self._source.training_images

    def _train_step(self, batches: Iterator[Batch]) -> StepResult:
        config, telemetry, position, started = self._config, self._telemetry, self._position, time.monotonic()
        rate = learning_rate(config.optimizer, self._global_batch, config.epochs, self._epochs_done())
        if self._profiler:
            with self._profiler.step(position.step + 1):
                outcome = self._update(batches, rate)
        else:
            outcome = self._update(batches, rate)
        self._keeper.check()
        self._check_finite(outcome)
        images = position.images + self._global_batch
        self._position = dataclasses.replace(position, step=position.step + 1, images=images)
        seconds = time.monotonic() - started
        self._recent.add(self._global_batch, seconds, outcome.loss)
        telemetry.images(config.batch_size * config.gradient_accumulation)
        telemetry.learning_rate(rate)
        telemetry.loss(self._recent.loss or outcome.loss)
        telemetry.loss_scale(float(self._state.optimizer.scale))
        telemetry.epoch(self._epochs_done())
        telemetry.step_done(seconds)
        self._count_bad_records()
        if self._position.step % max(1, self._steps_per_epoch // _ENTRIES_PER_EPOCH) == 0:
            self._log(loss=self._recent.loss, images_per_second=self._recent.images_per_second, learning_rate=rate)
        return outcome

    def _update(self, batches: Iterator[Batch], rate: float) -> StepResult:
        telemetry, compiled = self._telemetry, self._compiled

        def phase(name: Phase) -> AbstractContextManager[None]:
            return telemetry.phase("compile" if name == "compute" and not compiled else name)

        def requests() -> Requests:
            save = self._ranks.rank == 0 and time.monotonic() >= self._save_again
            return Requests(stop=self._signals.stop.is_set(), save=save)

        outcome = train_step(
            self._state,
            self._ranks,
            batches,
            rate,
            mixup_weight=self._mixup_weight,
            requests=requests,
            phase=phase,
        )
        self._compiled = True
        return outcome

    def _mixup_weight(self, part: int) -> Any:
        """MixUp's share for each image of this rank's batch, a function of the seed and the place in the training."""
        config, position = self._config, self._position
        place = [config.seed, position.epoch, position.images // self._global_batch, self._ranks.rank, part]
        random = np.random.default_rng(place)
        shares = random.beta(config.mixup, config.mixup, config.batch_size) if config.mixup else np.ones(1)
        return tf.constant(shares, tf.float32)

    def _check_finite(self, outcome: StepResult) -> None:
        if outcome.finite and math.isfinite(outcome.loss):
            self._overflows = 0
            return
        scaled = self._config.precision.mode == "fp16"
        self._telemetry.nonfinite("overflow" if scaled else "nan")
        self._overflows += 1
        if not scaled or self._overflows > _OVERFLOWS_IN_A_ROW:
            raise _NotFinite(f"the loss at step {self._position.step + 1} is not finite ({outcome.loss})")

    def _rollback(self, trouble: str) -> None:
        """Takes every rank back to the last checkpoint, or to the start; TrainingError where that was tried enough."""
        tried, allowed = self._position.rollbacks, self._config.max_rollbacks
        if tried >= allowed:
            raise TrainingError(
                ExitStatus.NOT_FINITE,
                f"{trouble}, after {tried} rollbacks of maxRollbacks {allowed}: lower optimizer.learningRate, or look "
                "at the images",
                collective=True,
            )
        self._state.reset()
        found = self._keeper.restore()
        redealt = (*found.redealt, (found.images, tried + 1))
        self._position = dataclasses.replace(found, rollbacks=tried + 1, redealt=redealt)
        self._recent, self._overflows = MovingThroughput(), 0
        self._plan_save()
        if self._journal:
            self._journal.truncate_after(found.step)
        self._telemetry.rolled_back()
        self._telemetry.note(
            f"{trouble}: back to step {found.step}, the rest of its epoch in another order "
            f"(rollback {tried + 1} of {allowed})"
        )

    def _after_epoch(self) -> None:
        """Evaluates and saves, where it is time."""
        epoch, config = self._position.epoch, self._config
        last = epoch == config.epochs
        average_statistics(self._state, self._ranks)
        evaluates = self._source.validation_images and (last or epoch % config.evaluation.every_epochs == 0)
        if evaluates:
            self._evaluate()
        due = last or self._target_reached() or epoch % config.checkpoint.every_epochs == 0 or self._time_to_save
        if due or evaluates:
            self._save(newest=due, best=bool(evaluates))
        self._telemetry.progress(self.progress())

    def _evaluate(self) -> None:
        """Measures the accuracy, that of the averaged weights where there are some."""
        telemetry = self._telemetry
        networks = [self._state.model]
        if self._state.average:
            networks.append(self._state.average.network)
        with telemetry.phase("evaluation"):
            plain, *averaged = evaluate(networks, self._source, self._ranks, telemetry.liveness.beat)
        self._count_bad_records()
        accuracy = averaged[0] if averaged else plain
        before = self._position.best_top1
        self._position = dataclasses.replace(
            self._position,
            top1=accuracy.top1,
            top5=accuracy.top5,
            best_top1=accuracy.top1 if before is None else max(before, accuracy.top1),
        )
        telemetry.accuracy(accuracy.top1, accuracy.top5)
        apart = {"plain_top1": plain.top1, "plain_top5": plain.top5} if averaged else {}
        self._log(top1=accuracy.top1, top5=accuracy.top5, **apart)
        telemetry.note(
            f"epoch {self._position.epoch}: {_sentence(accuracy)}"
            + (f" with averaged weights; {_sentence(plain)} with the last" if averaged else "")
        )

    def _save_within_epoch(self) -> None:
        """Saves where the epoch goes on; at its end the evaluation comes first."""
        self._time_to_save = True
        if self._fits_another_step():
            self._save(averaged_variables(self._state, self._ranks))

    def _save(self, variables: Mapping[str, Any] | None = None, *, newest: bool = True, best: bool = False) -> None:
        """Saves, unless the last update has left a weight that is not finite: that is no place to go back to.

        variables: what to save; those of the train state if it is None.
        """
        variables = self._state.variables() if variables is None else variables
        if not is_finite(self._state, variables):
            raise _NotFinite(f"a weight after step {self._position.step} is not finite")
        self._keeper.save(self._position, variables, newest=newest, best=best)
        if newest:
            self._plan_save()

    def _plan_save(self) -> None:
        minutes = self._config.checkpoint.every_minutes
        self._save_again = time.monotonic() + 60 * minutes if minutes else math.inf
        self._time_to_save = False

    def _finish_saving(self, *, stopping: bool = False) -> str:
        """Returns when the last checkpoint is on the disk; TrainingError on every rank where it cannot be saved in
        time.
        """
        started, until = time.monotonic(), float(self._config.checkpoint.save_timeout_seconds)

        def seconds_left() -> float:
            nonlocal until
            spent = time.monotonic() - started
            if stopping or self._signals.stop.is_set():
                until = min(until, spent + self._signals.seconds_to_save)
            return until - spent

        last = FinalSave(self._keeper, self._ranks, self._telemetry, self._config.checkpoint.path)
        return last.finish(self._position, seconds_left, best=not stopping)

    def _count_bad_records(self) -> None:
        if self._source.bad and (found := len(self._source.bad)) > self._bad_records:
            self._telemetry.bad_records(found - self._bad_records)
            self._bad_records = found

    def _check_bad_records(self) -> None:
        """Each rank alone keeps to the share; whether all together do is seen once an epoch."""
        if self._source.bad and self._config.data.bad_records:
            self._source.bad.check_together(self._ranks.gather(self._source.bad.marks))

    def _log(self, **measured: float | None) -> None:
        if self._journal:
            epoch = round(self._epochs_done(), 6)
            self._journal.add(LogRecord(self._position.step, epoch, shares=self._shares.sample(), **measured))

    def _journal_failed(self, error: Exception) -> None:
        self._telemetry.journal_failed()
        self._telemetry.note(f"the log of the run could not be written: {error}")

    def _target_reached(self) -> bool:
        goal, best = self._config.stop_at.top1, self._position.best_top1
        return goal is not None and best is not None and best >= goal

    def _epochs_done(self) -> float:
        # Images, not steps: a training that resumes with another number of ranks has steps of another size.
        images = self._steps_per_epoch * self._global_batch
        return self._position.epoch + min(1.0, self._position.images / images)


def _sentence(accuracy: Accuracy) -> str:
    return (
        f"top-1 {accuracy.top1:.4f}, top-5 {accuracy.top5:.4f} "
        f"({accuracy.right1} and {accuracy.right5} of {accuracy.images})"
    )
