"""Trainings that take seconds, for the tests of the training loop."""

import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from resnext_trainer.checkpoint.runs import located
from resnext_trainer.checkpoint.store import Arrays, TrainingPosition
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import Progress, SavedCheckpoint
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.runtime.telemetry import compose
from resnext_trainer.training import entrypoint
from tests.support import checkpoints


class _StoppingHeartbeat(Heartbeat):
    """Heartbeat that requests a stop after a number of steps."""

    def __init__(self, requests: Requests, steps: float) -> None:
        super().__init__(0)
        self._requests, self._left = requests, steps

    def step_done(self) -> None:
        super().step_done()
        self._left -= 1
        if self._left <= 0:
            self._requests.stop.set()


class StopAfter:
    """Telemetry and requests of a training that stops after a number of steps."""

    def __init__(self, steps: float = math.inf) -> None:
        self.log, self.requests = StringIO(), Requests()
        self.metrics, self.heartbeat = Metrics(), _StoppingHeartbeat(self.requests, steps)
        self.parts = compose(self.metrics, Console(out=self.log), self.heartbeat)


@dataclass(frozen=True)
class Trained:
    """The report of a training that completed at least one step."""

    verdict: str
    message: str
    progress: Progress

    @property
    def checkpoint(self) -> SavedCheckpoint:
        """The newest checkpoint, as reported."""
        assert self.progress.checkpoint is not None, "no checkpoint is reported"
        return self.progress.checkpoint


def trained(
    settings: dict[str, Any],
    attempt: int = 1,
    telemetry: StopAfter | None = None,
    stop_after: float = math.inf,
    **counts: int | None,
) -> Trained:
    """The report of a training; its output is in the telemetry's log."""
    telemetry = telemetry or StopAfter(stop_after)
    expected: dict[str, int | None] = {"workers": None, "world": None, **counts}
    report = entrypoint.run(
        resolve(settings), attempt=attempt, telemetry=telemetry.parts, requests=telemetry.requests, **expected
    )
    assert report.progress is not None, report
    return Trained(report.verdict, report.message, report.progress)


def refused(settings: dict[str, Any], **how: Any) -> TrainingError:
    """The error that a training fails with; `how` are the arguments of `trained`."""
    with pytest.raises(TrainingError) as caught:
        trained(settings, **how)
    return caught.value


def folder(settings: dict[str, Any]) -> Path:
    """The directory of the current run of a training."""
    return located(Path(settings["checkpoint"]["path"]))


def newest(settings: dict[str, Any]) -> tuple[TrainingPosition, Arrays, SavedCheckpoint]:
    """Position, arrays and path of the newest checkpoint of a training."""
    return checkpoints.newest(folder(settings))
