"""`resnext-operator follow`: one training, live in a terminal, from its resource's status alone."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

ENDED = ("Succeeded", "Failed")
PERIOD = 1.0
LINES_EVERY = 5.0


class Bar:
    """For a terminal: one bar that is drawn over itself."""

    def __init__(self, console: Console) -> None:
        # Of 80 columns: 62 for the numbers and the time left, and what the terminal has more for the bar.
        columns = (BarColumn(None), TextColumn("{task.percentage:>3.0f}% {task.fields[numbers]}"))
        self._progress = Progress(*columns, console=console, expand=True)
        self._task = self._progress.add_task("", total=100, numbers="")
        self._progress.start()

    def show(self, progress: Mapping[str, Any]) -> None:
        self._progress.update(
            self._task, completed=percent(progress), numbers=format_progress(progress, datetime.now(UTC))
        )

    def end(self) -> None:
        self._progress.stop()


class LinePrinter:
    """For a file or a pipe: a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._step, self._at = console, None, 0.0

    def show(self, progress: Mapping[str, Any]) -> None:
        now = datetime.now(UTC)
        if progress.get("step") != self._step and time.monotonic() >= self._at:
            self._console.print(
                f"{now.astimezone():%H:%M:%S} {percent(progress):3.0f}% {format_progress(progress, now)}"
            )
            self._step, self._at = progress["step"], time.monotonic() + LINES_EVERY

    def end(self) -> None:
        pass


def poll_status(get: Callable[[], Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The training's status, once a second, until the training ended."""
    while True:
        status = get().get("status") or {}
        yield status
        if status.get("phase") in ENDED:
            return
        time.sleep(PERIOD)


def follow(get: Callable[[], Mapping[str, Any]], console: Console) -> Mapping[str, Any]:
    """Show how far it is until the training ends, with a line for each phase; returns the last status.

    get: reads the resource from the API server.
    """
    phase: str | None = None
    last: Mapping[str, Any] = {}
    display = Bar(console) if console.is_terminal else LinePrinter(console)
    try:
        for last in poll_status(get):
            progress = dict(last.get("progress") or {})
            if last.get("phase") in ENDED:
                # How it ended is the last word, and nothing is left to wait for.
                progress.pop("estimatedCompletionTime", None)
                display.show(progress)
            if last.get("phase") != phase and (phase := last.get("phase")):
                console.print(f"{datetime.now():%H:%M:%S} {': '.join(filter(None, (phase, reason(last))))}")
            display.show(progress)
    finally:
        display.end()
    return last


def percent(progress: Mapping[str, Any]) -> float:
    """Steps done over steps to do, in percent."""
    return 100.0 * int(progress.get("step", 0)) / max(1, int(progress.get("steps", 1)))


def format_progress(progress: Mapping[str, Any], now: datetime) -> str:
    """Epoch, throughput, loss, accuracy and the time left, as far as they are known."""
    parts = []
    if "epochs" in progress:
        parts.append(f"epoch {float(progress.get('epoch', 0)):.1f}/{progress['epochs']}")
    if (rate := progress.get("imagesPerSecond")) is not None:
        parts.append(f"{float(rate):,.0f} images/s")
    if (loss := progress.get("loss")) is not None:
        parts.append(f"loss {float(loss):.3f}")
    if (top1 := progress.get("top1")) is not None:
        parts.append(f"top-1 {float(top1):.4f}")
    if at := progress.get("estimatedCompletionTime"):
        seconds = round((datetime.fromisoformat(at) - now).total_seconds())
        parts.append(f"{timedelta(seconds=max(0, seconds))} left")
    return " · ".join(parts)


def reason(status: Mapping[str, Any]) -> str:
    """The operator's own words for where the training stands: of the condition that has the status's reason.

    Several conditions may have it; the one named after the phase is about the training as a whole. Their times do not
    help: several conditions change within one second, the resolution of the API's times.
    """
    found = [each for each in status.get("conditions") or () if each.get("reason") == status.get("reason")]
    found.sort(key=lambda each: each.get("type") != status.get("phase"))
    return next((str(each["message"]) for each in found if each.get("message")), "")
