"""Progress of a command: a bar on a terminal, otherwise a line every ten seconds."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(what: str, total: int, out: TextIO | None = None) -> Iterator[Callable[[int], None]]:
    """Yields a thread-safe function that advances the progress by a number of items.

    what: plural name of the items. out: standard error if None.
    """
    stream = out or sys.stderr
    with _bar(what, total, stream) if stream.isatty() else _lines(what, total, stream) as advance:
        yield advance


@contextlib.contextmanager
def _bar(what: str, total: int, out: TextIO) -> Iterator[Callable[[int], None]]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(file=out), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _lines(what: str, total: int, out: TextIO) -> Iterator[Callable[[int], None]]:
    lock, done, due = threading.Lock(), 0, time.monotonic() + _SECONDS_BETWEEN_LINES

    def advance(count: int) -> None:
        nonlocal done, due
        with lock:
            done += count
            if (now := time.monotonic()) >= due or done == total:
                due = now + _SECONDS_BETWEEN_LINES
                print(f"{done:,} of {total:,} {what}", file=out, flush=True)

    yield advance
