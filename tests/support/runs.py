"""Trainings of seconds, for the tests of the loop."""

import math
from io import StringIO
from pathlib import Path

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.runs import located
from resnext_trainer.config.validation import resolve
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.runtime.telemetry import Telemetry
from resnext_trainer.training import entrypoint


class StopAfter(Telemetry):
    """Asks the training to stop after a number of steps."""

    def __init__(self, steps=math.inf):
        self.log = StringIO()
        super().__init__(out=self.log)
        self.requests, self._left = Requests(), steps

    def step_done(self, seconds):
        super().step_done(seconds)
        self._left -= 1
        if self._left <= 0:
            self.requests.stop.set()


def trained(settings, attempt=1, telemetry=None, stop_after=math.inf, **counts):
    """The report of a training; what it said is in the telemetry's log."""
    telemetry = telemetry or StopAfter(stop_after)
    expected = {"workers": None, "world": None, **counts}
    return entrypoint.run(
        resolve(settings), attempt=attempt, telemetry=telemetry, requests=telemetry.requests, **expected
    )


def folder(settings) -> Path:
    """The directory of the current run of a training."""
    return located(Path(settings["checkpoint"]["path"]))


def newest(settings):
    """Position, arrays and place of the newest checkpoint of a training."""
    return store.newest(folder(settings))
