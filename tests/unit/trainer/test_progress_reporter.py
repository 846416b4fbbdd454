"""Publication of steps to metrics, heartbeat and console, at most once per second."""

import threading
from io import StringIO
from types import SimpleNamespace

import pytest
import tensorflow as tf

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.model.train_step import PendingResult, StepResult
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.training import progress_reporter
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.progress_reporter import ProgressReporter
from resnext_trainer.training.step_runner import StepRunner

PLAN = EpochPlan(epochs=2, images=80, global_batch=8)


class Run:
    """Steps that end when the test says so."""

    def __init__(self, monkeypatch):
        self.now, self.position = 100.0, TrainingPosition()
        monkeypatch.setattr(progress_reporter, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.metrics, self.heartbeat = Metrics(), Heartbeat(0)
        config = Training.model_validate({"batchSize": 4, "gradientAccumulation": 2})
        self.runner = StepRunner(config, PLAN, None, self.metrics, self.heartbeat, None)  # type: ignore[arg-type]
        checkpoints = SimpleNamespace(saved=None)
        self.reporter = ProgressReporter(
            1,
            config.checkpoint,
            PLAN,
            self.runner,
            checkpoints,  # type: ignore[arg-type]
            self.heartbeat,
            self.metrics,
            Console(out=StringIO()),
        )

    def step(self, at, loss=1.0):
        self.now, self.position = at, PLAN.after_step(self.position)
        self.runner.record(StepResult(loss, finite=True, stop=False, save=False, loss_scale=4.0), 0.5, 0.02)
        self.reporter.step_done(self.position)

    def published(self):
        progress = self.heartbeat.progress
        assert progress, "no progress is published"
        assert self.metrics.value("steps_total") == progress.step
        assert self.metrics.value("step_duration_seconds_count") == progress.step
        assert self.metrics.value("images_total") == 8 * progress.step
        return progress.step


@pytest.fixture
def run(monkeypatch):
    return Run(monkeypatch)


def test_steps_within_a_second_published_together(run):
    """The first step is published at once; the heartbeat, which the watchdog reads, counts each step."""
    seen = []
    for at in (100.0, 100.2, 100.9, 101.1, 101.2, 102.0, 102.2):
        run.step(at)
        seen.append(run.published())
    assert seen == [1, 1, 1, 4, 4, 4, 7]
    assert run.heartbeat.step == 7


def test_slow_steps_published_one_by_one(run):
    """Steps of a second and longer are published when they end."""
    for number in range(1, 4):
        run.step(100.0 + 1.5 * number)
        assert run.published() == number


def test_report_publishes_steps_of_this_second(run):
    """Before an evaluation and at the end, metrics and progress contain the last step."""
    for at, loss in ((100.0, 1.0), (100.1, 2.0), (100.2, 6.0)):
        run.step(at, loss)
    run.reporter.report(run.position)
    assert run.published() == 3
    assert run.heartbeat.progress.loss == run.metrics.value("loss") == 3.0
    assert (run.metrics.value("learning_rate"), run.metrics.value("loss_scale")) == (0.5, 4.0)
    assert run.metrics.value("epoch") == pytest.approx(0.3)
    run.reporter.report(run.position)
    assert run.published() == 3


def test_pending_result_on_cpu_starts_no_thread():
    """The values are in the host's memory; a thread would compete with the training loop for the GIL."""
    result = PendingResult(tf.constant([2.5, 1.0, 0.0, 0.5, 8.0])).wait()
    assert result == StepResult(2.5, finite=True, stop=False, save=True, loss_scale=8.0)
    assert "step-result" not in {thread.name for thread in threading.enumerate()}
