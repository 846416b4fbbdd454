"""Progress of a training, for the operator, the watchdog, the console and Prometheus."""

import time

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Checkpoint
from resnext_trainer.contract import Progress
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.training.checkpoint_saver import expected_interval
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.step_runner import StepRunner

_SECONDS_BETWEEN_REPORTS = 1.0
"""A report takes 0.28 ms of the main thread, more than everything else that follows a step."""


class ProgressReporter:
    """Reports the progress of one attempt."""

    def __init__(
        self,
        attempt: int,
        config: Checkpoint,
        plan: EpochPlan,
        steps: StepRunner,
        checkpoints: CheckpointManager,
        heartbeat: Heartbeat,
        metrics: Metrics,
        console: Console,
    ) -> None:
        self._attempt, self._config, self._plan = attempt, config, plan
        self._steps, self._checkpoints = steps, checkpoints
        self._heartbeat, self._metrics, self._console = heartbeat, metrics, console
        self.resumed_step = 0
        """Step from which this attempt resumed; 0 without a checkpoint."""
        self._next = 0.0

    def progress(self, position: TrainingPosition) -> Progress:
        """Progress at this position."""
        return Progress(
            attempt=self._attempt,
            epoch=round(self._plan.epochs_done(position), 4),
            epochs=self._plan.epochs,
            step=position.step,
            steps=position.step + self._plan.steps_left(position),
            images_per_second=self._steps.throughput.images_per_second,
            loss=self._steps.throughput.loss,
            top1=position.top1,
            top5=position.top5,
            best_top1=position.best_top1,
            checkpoint=self._checkpoints.saved,
            resumed_step=self.resumed_step,
        )

    def step_done(self, position: TrainingPosition) -> None:
        """Reports after a step, at most once per second."""
        if time.monotonic() >= self._next:
            self.report(position)

    def report(self, position: TrainingPosition) -> None:
        """Publishes the progress at this position to the metrics, the heartbeat and the console."""
        self._next = time.monotonic() + _SECONDS_BETWEEN_REPORTS
        self._steps.publish(position)
        self._heartbeat.progress = progress = self.progress(position)
        self._metrics.checkpoint_interval(
            expected_interval(self._config, self._plan.images, progress.images_per_second)
        )
        self._console.show(progress)
