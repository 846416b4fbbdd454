"""Steps with dependencies, skipped if they are done.

A step is done if the hash of its inputs equals that in its stamp, and its result still exists. Independent steps run in
parallel, so that downloads overlap with compilation.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from hack.devenv import shell
from hack.devenv.places import LOGS, STAMPS

Input = str | Path


@dataclass(frozen=True)
class Step:
    """One step of the setup."""

    name: str
    says: str
    run: Callable[[], None]
    needs: tuple[str, ...] = ()
    inputs: Callable[[], Iterable[Input]] = tuple
    """Strings, files and directories. If their contents change, the step runs again."""
    present: Callable[[], bool] = lambda: True
    """Whether the result of the step exists and works."""

    @property
    def stamp(self) -> Path:
        return STAMPS / self.name

    def done(self) -> bool:
        return self.stamp.is_file() and self.stamp.read_text() == digest(self.inputs()) and self.present()


class StepFailed(Exception):
    """A step failed; the message contains the end of its log."""


STEPS: dict[str, Step] = {}


def step(
    name: str,
    says: str,
    needs: tuple[str, ...] = (),
    inputs: Callable[[], Iterable[Input]] = tuple,
    present: Callable[[], bool] = lambda: True,
    steps: dict[str, Step] = STEPS,
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function as a step, for all sources of images or for one of them."""

    def register(run: Callable[[], None]) -> Callable[[], None]:
        steps[name] = Step(name, says, run, needs, inputs, present)
        return run

    return register


def digest(inputs: Iterable[Input]) -> str:
    """A short hash of strings and of the names, modes and contents of files, without compiled Python."""
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
    """The named steps and their dependencies, in topological order."""
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
    """Print a line to standard error; standard output is reserved for results."""
    with _printing:
        print(line, file=sys.stderr, flush=True)


def perform(wanted: list[Step], finished: Iterable[str] = ()) -> None:
    """Run the steps that are not finished, independent ones in parallel.

    If one fails, wait for the running ones and raise StepFailed.
    """
    finished = set(finished)
    waiting = {item.name: item for item in wanted if item.name not in finished}
    running: dict[Future[None], str] = {}
    failure: Exception | None = None
    # Few at a time, because compilers use all cores.
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
    # Computed before the step runs, so that an input that is edited during the step makes it run again.
    key = digest(item.inputs())
    if item.done():
        say(f"  ✓ {item.name}: up to date")
        return
    say(f"  … {item.name}: {item.says}")
    log = shell.log_to(item.name)
    try:
        item.run()
    except Exception as error:
        tail = "\n".join(f"      {line}" for line in log.read_text(errors="replace").splitlines()[-25:])
        raise StepFailed(f"  ✗ {item.name}: {error}\n{tail}\n    Full log: {log}") from error
    STAMPS.mkdir(parents=True, exist_ok=True)
    item.stamp.write_text(key)
    seconds = time.monotonic() - began
    with (LOGS / "times.tsv").open("a") as times:
        times.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')}\t{item.name}\t{seconds:.1f}\n")
    say(f"  ✓ {item.name}: {seconds:.0f} s")
