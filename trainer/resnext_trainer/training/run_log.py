"""Log of a run next to its checkpoints: log.jsonl, and scalars for TensorBoard.

A line of log.jsonl is an object with all keys of `LogRecord`; a value is null if it was not measured at that step. When
a training resumes or rolls back, the lines of the repeated steps are removed, so that steps always increase.
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
    """Measurements at a step."""

    step: int
    epoch: float
    """Fractional number of epochs done."""
    loss: float | None = None
    """Mean over the last 10 seconds."""
    images_per_second: float | None = None
    learning_rate: float | None = None
    top1: float | None = None
    """Validation accuracy after this step, from 0 to 1; that of the averaged weights if averaging is enabled."""
    top5: float | None = None
    raw_top1: float | None = None
    """Validation accuracy of the weights without averaging; None if averaging is disabled."""
    raw_top5: float | None = None
    phase_fractions: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the time since the previous record spent in each phase; the parts of a step are estimates."""
    time: float = field(default_factory=time.time)
    """Unix time of the measurement."""

    def scalars(self) -> dict[str, float]:
        """Scalars for TensorBoard, by tag."""
        measured = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in {"step", "phase_fractions", "time"}
        }
        phase_fractions = {f"phase_fraction/{phase}": share for phase, share in self.phase_fractions.items()}
        return {**{name: value for name, value in measured.items() if value is not None}, **phase_fractions}

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(
            {
                "time": round(self.time, 3),
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
    """Writes records to a folder. Write errors are passed to `failed` and do not end the training."""

    def __init__(self, folder: Path, failed: Callable[[Exception], None]) -> None:
        self._folder, self._failed = folder, failed
        self._scalars: _Scalars | None = None
        self._torn = False
        """Whether the last line may be incomplete."""

    def truncate_after(self, step: int) -> None:
        """Removes the records of later steps, because the training continues from this one."""
        with self._tolerate_io_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            if (log := self._folder / LOG).exists():
                aside = log.with_name(f".{LOG}.writing")
                aside.write_text("".join(f"{line}\n" for line in _records_until(step, log)))
                aside.rename(log)
            self._scalars = _Scalars(self._folder / SCALARS, step)

    def add(self, entry: LogRecord) -> None:
        """Appends a record."""
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
    """Event file of TensorBoard: a TFRecord file of tf.Event messages."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard searches for names that contain "tfevents" and reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = tf.io.TFRecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        # TensorBoard discards later steps of earlier files.
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes each value under its tag."""
        self._write(
            step=step,
            summary=Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]),
        )

    def _write(self, **content: Any) -> None:
        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()


def _records_until(step: int, log: Path) -> Iterator[str]:
    """Complete lines of steps up to `step`."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                yield line
