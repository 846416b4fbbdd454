"""Profiles steps on request, for TensorBoard's profile plugin and Perfetto."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from resnext_trainer.runtime.signals import Flag


class Profiler:
    """Profiles the next steps on request. Failures are logged and do not end the training."""

    def __init__(self, requested: Flag, steps: int, folder: Path, note: Callable[[str], None]) -> None:
        self._requested, self._steps, self._folder, self._note = requested, steps, folder, note
        self._left = 0

    @property
    def is_due(self) -> bool:
        """Whether to profile the next step."""
        return bool(self._left) or self._requested.is_set()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Context manager around one step; starts and stops profiles."""
        if self._requested.is_set() and not self._left:
            self._requested.clear()
            self._start()
        if not self._left:
            yield
            return
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            yield
        self._left -= 1
        if not self._left:
            self._stop()

    def close(self) -> None:
        """Writes an unfinished profile."""
        if self._left:
            self._left = 0
            self._stop()

    def _start(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tf.profiler.experimental.start(str(self._folder))
        except (OSError, tf.errors.OpError) as error:
            self._note(f"profiling failed: {error}")
            return
        self._left = self._steps

    def _stop(self) -> None:
        try:
            tf.profiler.experimental.stop()
        except (OSError, tf.errors.OpError) as error:
            self._note(f"profiling failed: {error}")
            return
        self._note(f"wrote a profile of {self._steps} steps to {self._folder / 'plugins' / 'profile'}")
