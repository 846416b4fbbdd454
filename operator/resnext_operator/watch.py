"""`resnext-operator watch`: shows the progress of a training in a terminal. It reads only the resource's status."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resnext_operator.api.status import Phase, ProgressStatus, Status

PERIOD = 1.0
LINES_EVERY = 5.0


class Bar:
    """Progress bar for terminals, updated in place."""

    def __init__(self, console: Console) -> None:
        # The text takes up to 62 columns; the bar takes the rest of the line.
        columns = (BarColumn(None), TextColumn("{task.percentage:>3.0f}% {task.fields[numbers]}"))
        self._progress = Progress(*columns, console=console, expand=True)
        self._task = self._progress.add_task("", total=100, numbers="")
        self._progress.start()

    def show(self, progress: ProgressStatus | None) -> None:
        numbers = format_progress(progress, datetime.now(UTC))
        self._progress.update(self._task, completed=percent(progress), numbers=numbers)

    def end(self) -> None:
        self._progress.stop()


class LinePrinter:
    """Prints a line at most every few seconds, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console, self._at = console, 0.0
        self._step: int | None = None

    def show(self, progress: ProgressStatus | None) -> None:
        now = datetime.now(UTC)
        if progress and progress.step != self._step and time.monotonic() >= self._at:
            self._console.print(
                f"{now.astimezone():%H:%M:%S} {percent(progress):3.0f}% {format_progress(progress, now)}"
            )
            self._step, self._at = progress.step, time.monotonic() + LINES_EVERY

    def end(self) -> None:
        pass


def poll_status(get: Callable[[], Status]) -> Iterator[Status]:
    """Yield the training's status once per second until the training ends."""
    while True:
        status = get()
        yield status
        if status.phase and status.phase.ended:
            return
        time.sleep(PERIOD)


def watch(get: Callable[[], Status], console: Console) -> Status:
    """Show the progress until the training ends, with a line for each phase; returns the last status.

    get: reads the status from the API server.
    """
    phase: Phase | None = None
    last = Status()
    display = Bar(console) if console.is_terminal else LinePrinter(console)
    try:
        for last in poll_status(get):
            progress = last.progress
            if last.phase and last.phase.ended:
                # The line about the end comes last, so the bar is drawn before it and without the time left.
                progress = progress and progress.model_copy(update={"estimated_completion_time": None})
                display.show(progress)
            if last.phase != phase and (phase := last.phase):
                console.print(f"{datetime.now():%H:%M:%S} {': '.join(filter(None, (phase, reason(last))))}")
            display.show(progress)
    finally:
        display.end()
    return last


def percent(progress: ProgressStatus | None) -> float:
    """Completed steps in percent of all steps."""
    return 100.0 * progress.step / max(1, progress.steps) if progress else 0.0


def format_progress(progress: ProgressStatus | None, now: datetime) -> str:
    """Epoch, throughput, loss, accuracy and remaining time; unknown values are omitted."""
    if progress is None:
        return ""
    parts = [f"epoch {progress.epoch or 0:.1f}/{progress.epochs}"]
    if progress.images_per_second is not None:
        parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.top1 is not None:
        parts.append(f"top-1 {progress.top1:.4f}")
    if progress.estimated_completion_time:
        seconds = round((progress.estimated_completion_time - now).total_seconds())
        parts.append(f"{timedelta(seconds=max(0, seconds))} left")
    return " · ".join(parts)


def reason(status: Status) -> str:
    """The message of the condition that has the status's reason.

    If several conditions have this reason, the one that is named after the phase wins: it describes the whole
    training. Transition times cannot decide, because they have a resolution of one second.
    """
    found = [each for each in status.conditions if each.reason == status.reason]
    found.sort(key=lambda each: each.type != status.phase)
    return next((each.message for each in found if each.message), "")
