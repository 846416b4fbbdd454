"""Heartbeat and state of a rank, read by its watchdog and by those of the other ranks."""

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
"""State of a rank that waits for the others; also the name of the phase."""


@dataclass(frozen=True)
class State:
    """State of a rank, sent as JSON."""

    rank: int
    step: int
    """Steps finished in this attempt."""
    doing: str
    """Current or last phase, such as data_wait."""
    seconds: float
    """Seconds since the last heartbeat."""
    stacks: str = ""
    """Stack traces of its threads."""

    def as_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Heartbeat:
    """Heartbeat of one rank."""

    def __init__(self, rank: int) -> None:
        self.peers: list[str | None] = []
        """URL of each rank's state, by rank; empty until the ranks have exchanged them."""
        self.progress: Progress | None = None
        """Progress of the training; None before the first step."""
        self.step = 0
        self._rank, self._doing, self._since = rank, STARTING, time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._since

    def beat(self, doing: str | None = None) -> None:
        """Records a heartbeat and, if given, the phase that starts now."""
        self._since = time.monotonic()
        if doing is not None:
            self._doing = doing

    def step_done(self) -> None:
        """Records the end of a step."""
        self.step += 1
        self.beat()

    def state(self) -> State:
        """The current state."""
        return State(self._rank, self.step, self._doing, round(self.idle_seconds, 1), stacks())


def stacks() -> str:
    """Stack traces of all Python threads of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
