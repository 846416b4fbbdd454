"""Trainings of seconds, for the tests of the loop."""

import math
from io import StringIO
from pathlib import Path
from typing import Any

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.runs import located
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import TerminationReport
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.runtime.telemetry import Telemetry
from resnext_trainer.training import entrypoint


class StopAfter(Telemetry):
    """Asks the training to stop after a number of steps."""

    def __init__(self, steps: float = math.inf) -> None:
        self.log = StringIO()
        super().__init__(out=self.log)
        self.requests, self._left = Requests(), steps

    def step_done(self, seconds: float) -> None:
        super().step_done(seconds)
        self._left -= 1
        if self._left <= 0:
            self.requests.stop.set()


def trained(
    settings: dict[str, Any],
    attempt: int = 1,
    telemetry: StopAfter | None = None,
    stop_after: float = math.inf,
    **counts: int | None,
) -> TerminationReport:
    """The report of a training; what it said is in the telemetry's log."""
    telemetry = telemetry or StopAfter(stop_after)
    expected: dict[str, int | None] = {"workers": None, "world": None, **counts}
    return entrypoint.run(
        resolve(settings), attempt=attempt, telemetry=telemetry, requests=telemetry.requests, **expected
    )


def folder(settings: dict[str, Any]) -> Path:
    """The directory of the current run of a training."""
    return located(Path(settings["checkpoint"]["path"]))


def newest(settings: dict[str, Any]) -> Any:
    """Position, arrays and place of the newest checkpoint of a training."""
    return store.newest(folder(settings))
