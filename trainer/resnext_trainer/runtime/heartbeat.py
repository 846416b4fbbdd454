"""What a rank is doing, as its watchdog and those of the other ranks see it."""

import json
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Literal

from resnext_trainer.contract import Progress

STARTING = "starting"
ALLREDUCE: Literal["allreduce"] = "allreduce"
"""The state of a rank that waits for the others; as a phase it is counted under this name too."""


@dataclass(frozen=True)
class State:
    """Where a rank stands; travels as JSON."""

    rank: int
    step: int
    """Steps that it has finished in this attempt, or since the last rollback."""
    doing: str
    """The phase that it is in, such as data_wait, or what it did last."""
    seconds: float
    """Since its last sign of life."""
    stacks: str = ""
    """Where its threads are."""

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Heartbeat:
    """One rank's signs of life."""

    def __init__(self, rank: int) -> None:
        self.peers: list[str | None] = []
        """Where each rank answers with its state, by rank; empty until they have met."""
        self.progress: Progress | None = None
        """How far the training is; None before its first step."""
        self.step = 0
        self._rank, self._doing, self._since = rank, STARTING, time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Time since the last sign of life."""
        return time.monotonic() - self._since

    def beat(self, doing: str | None = None) -> None:
        """A sign of life; and what comes now, where that is something else than before."""
        self._since = time.monotonic()
        if doing is not None:
            self._doing = doing

    def step_done(self) -> None:
        """A step ended."""
        self.step += 1
        self.beat()

    def state(self) -> State:
        """Now."""
        return State(self._rank, self.step, self._doing, round(self.idle_seconds, 1), stacks())


def stacks() -> str:
    """Every thread of this process, as Python sees it."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
