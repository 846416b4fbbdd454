"""Console output of a training: a progress bar on a terminal, plain lines in a pod's log."""

import sys
import threading
import time
from typing import TextIO

from resnext_trainer.contract import Progress

_SECONDS_BETWEEN_LINES = 10.0


class Console:
    """Console output of rank 0; the other ranks print nothing."""

    def __init__(self, rank: int = 0, out: TextIO = sys.stdout, *, terminal: bool = False) -> None:
        self._lines: PlainLines | Bar | None = None
        if rank == 0:
            self._lines = Bar() if terminal else PlainLines(out)

    def show(self, progress: Progress) -> None:
        """Shows the progress of the training."""
        if self._lines:
            self._lines.show(progress)

    def note(self, sentence: str) -> None:
        """Prints a line."""
        if self._lines:
            self._lines.note(sentence)

    def close(self) -> None:
        """Stops the progress bar."""
        if self._lines:
            self._lines.close()


def sentence(progress: Progress) -> str:
    """Log line such as `epoch 1.25/5  step 120/480  loss 2.1034  640 images/s  top-1 98.31 %`."""
    parts = [f"epoch {progress.epoch:.2f}/{progress.epochs}", f"step {progress.step}/{progress.steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.images_per_second is not None:
        parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.top1 is not None:
        parts.append(f"top-1 {progress.top1:.2%}".replace("%", " %"))
    return "  ".join(parts)


class PlainLines:
    """Output for a pod's log: a line every ten seconds, and one after each evaluation."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._next = 0.0
        self._top1: float | None = None
        self._last_line = ""

    def show(self, progress: Progress) -> None:
        now, text = time.monotonic(), sentence(progress)
        due = now >= self._next or progress.top1 != self._top1 or progress.step == progress.steps
        if due and text != self._last_line:
            self._next, self._top1, self._last_line = now + _SECONDS_BETWEEN_LINES, progress.top1, text
            self.note(text)

    def note(self, sentence: str) -> None:
        with self._lock:
            print(sentence, file=self._out, flush=True)

    def close(self) -> None:
        """Does nothing; every line is flushed."""


class Bar:
    """Output for a terminal: a progress bar, with notes above it."""

    def __init__(self) -> None:
        # Imported here, because importing rich takes 0.1 s and pods do not need it.
        from rich import progress as rich_progress

        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("", total=None)
        self._bar.start()

    def show(self, progress: Progress) -> None:
        self._bar.update(self._task, total=progress.steps, completed=progress.step, description=sentence(progress))

    def note(self, sentence: str) -> None:
        self._bar.console.print(sentence, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()
