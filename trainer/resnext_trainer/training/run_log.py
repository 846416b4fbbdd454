"""The record of a training beside its checkpoints: log.jsonl for programs, and TensorBoard's scalars.

A line of log.jsonl is an object with every key of `Entry`, null where it was not measured at that moment. A training
that resumes, or rolls back, drops the lines of the steps that it makes again: so the steps only ever grow.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.summary_pb2 import Summary
from tensorflow.core.util.event_pb2 import Event, SessionLog

LOG, SCALARS = "log.jsonl", "tensorboard"


@dataclass(frozen=True)
class LogRecord:
    """What is known at a step."""

    step: int
    epoch: float
    """Epochs done, fractional."""
    loss: float | None = None
    """Mean over the last seconds."""
    images_per_second: float | None = None
    learning_rate: float | None = None
    top1: float | None = None
    """Measured after this step, as a share; of the averaged weights where there are some."""
    top5: float | None = None
    raw_top1: float | None = None
    """Of the weights themselves, where there are averaged ones."""
    raw_top5: float | None = None
    phase_fractions: Mapping[str, float] = field(default_factory=dict)
    """Each phase's share of the time since the entry before."""

    def scalars(self) -> dict[str, float]:
        """What TensorBoard draws, by tag."""
        measured = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in {"step", "phase_fractions"}
        }
        phase_fractions = {f"phase_fraction/{phase}": share for phase, share in self.phase_fractions.items()}
        return {**{name: value for name, value in measured.items() if value is not None}, **phase_fractions}

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(
            {
                "time": round(time.time(), 3),
                "step": self.step,
                "epoch": self.epoch,
                "loss": self.loss,
                "imagesPerSecond": self.images_per_second,
                "learningRate": self.learning_rate,
                "top1": self.top1,
                "top5": self.top5,
                "rawTop1": self.raw_top1,
                "rawTop5": self.raw_top5,
                "phaseFractions": dict(self.phase_fractions),
            }
        )


class RunLog:
    """Writes entries into a folder. What cannot be written is told to `failed`, and never ends a training."""

    def __init__(self, folder: Path, failed: Callable[[Exception], None]) -> None:
        self._folder, self._failed = folder, failed
        self._scalars: _Scalars | None = None
        self._torn = False
        """The last line may be a part of one."""

    def truncate_after(self, step: int) -> None:
        """The training goes on from here: what was written about later steps does not count any more."""
        with self._tolerate_io_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            if (log := self._folder / LOG).exists():
                aside = log.with_name(f".{LOG}.writing")
                aside.write_text("".join(f"{line}\n" for line in _records_until(step, log)))
                aside.rename(log)
            self._scalars = _Scalars(self._folder / SCALARS, step)

    def add(self, entry: LogRecord) -> None:
        """One more entry."""
        with self._tolerate_io_errors():
            with (self._folder / LOG).open("a") as log:
                if self._torn:
                    log.write("\n")
                log.write(f"{entry.to_json()}\n")
            self._torn = False
            if self._scalars is None:
                self._scalars = _Scalars(self._folder / SCALARS, entry.step)
            self._scalars.add(entry.step, entry.scalars())

    @contextmanager
    def _tolerate_io_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self._torn, self._scalars = True, None
            self._failed(error)


class _Scalars:
    """An event file of TensorBoard: records of tf.Event."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard looks for the word tfevents, and reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = tf.io.TFRecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        # Makes TensorBoard forget what earlier files say about later steps.
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Each value under its tag."""
        self._write(
            step=step,
            summary=Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]),
        )

    def _write(self, **content: Any) -> None:
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()


def _records_until(step: int, log: Path) -> Iterator[str]:
    """The whole lines about steps up to one."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                yield line
