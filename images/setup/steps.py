"""Steps: what each needs, whether it is done already, and how long it took.

A step is done while its content hash is the one that its stamp holds and what it made is still there. Steps that do not
need one another run at the same time: a compiler keeps two cores busy, while downloads leave them idle.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from images.setup import shell
from images.setup.places import LOGS, STAMPS

Input = str | Path


@dataclass(frozen=True)
class Step:
    """One thing that setting up does."""

    name: str
    says: str
    run: Callable[[], None]
    needs: tuple[str, ...] = ()
    inputs: Callable[[], Iterable[Input]] = tuple
    """Texts, files and folders; another content runs the step again."""
    present: Callable[[], bool] = lambda: True
    """Whether what the step made is still there and works."""

    @property
    def stamp(self) -> Path:
        return STAMPS / self.name

    def done(self) -> bool:
        return self.stamp.is_file() and self.stamp.read_text() == digest(self.inputs()) and self.present()


class StepFailed(Exception):
    """A step failed; the message holds the tail of its log."""


STEPS: dict[str, Step] = {}


def step(
    name: str,
    says: str,
    needs: tuple[str, ...] = (),
    inputs: Callable[[], Iterable[Input]] = tuple,
    present: Callable[[], bool] = lambda: True,
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function as a step."""

    def register(run: Callable[[], None]) -> Callable[[], None]:
        STEPS[name] = Step(name, says, run, needs, inputs, present)
        return run

    return register


def digest(inputs: Iterable[Input]) -> str:
    """A short hash of texts and of files' names and contents; compiled Python does not count."""
    sha = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            sha.update(f"text {item}\0".encode())
            continue
        files = sorted(item.rglob("*")) if item.is_dir() else [item]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                mode = file.stat().st_mode & 0o100
                sha.update(f"file {file.relative_to(item.parent)} {mode}\0".encode())
                sha.update(hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()[:16]


def closure(names: Iterable[str], steps: dict[str, Step]) -> list[Step]:
    """The named steps and all they need, each after what it needs."""
    ordered: dict[str, Step] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for need in steps[name].needs:
                visit(need)
            ordered[name] = steps[name]

    for name in names:
        visit(name)
    return list(ordered.values())


_printing = Lock()


def say(line: str) -> None:
    """One line for the person who waits; standard output stays free for answers."""
    with _printing:
        print(line, file=sys.stderr, flush=True)


def perform(wanted: list[Step]) -> None:
    """Run the steps, independent ones at the same time; raise StepFailed after those that run have ended."""
    waiting = {item.name: item for item in wanted}
    finished: set[str] = set()
    running: dict[Future[None], str] = {}
    failure: Exception | None = None
    # Not many at once: compilers use all cores by themselves.
    with ThreadPoolExecutor(max_workers=3) as pool:
        while (waiting and failure is None) or running:
            if failure is None:
                for item in [each for each in waiting.values() if finished.issuperset(each.needs)]:
                    running[pool.submit(_perform, item)] = item.name
                    del waiting[item.name]
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                finished.add(running.pop(future))
                failure = failure or future.exception()  # type: ignore[assignment]
    if failure is not None:
        raise failure


def _perform(item: Step) -> None:
    began = time.monotonic()
    # Taken before the work: an input that is edited meanwhile leaves a stamp that no longer fits.
    key = digest(item.inputs())
    if item.done():
        say(f"  ✓ {item.name}: nothing to do")
        return
    say(f"  … {item.name}: {item.says}")
    log = shell.log_to(item.name)
    try:
        item.run()
    except Exception as error:
        tail = "\n".join(f"      {line}" for line in log.read_text(errors="replace").splitlines()[-25:])
        raise StepFailed(f"  ✗ {item.name}: {error}\n{tail}\n    The whole log: {log}") from error
    STAMPS.mkdir(parents=True, exist_ok=True)
    item.stamp.write_text(key)
    seconds = time.monotonic() - began
    with (LOGS / "times.tsv").open("a") as times:
        times.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')}\t{item.name}\t{seconds:.1f}\n")
    say(f"  ✓ {item.name}: {seconds:.0f} s")
