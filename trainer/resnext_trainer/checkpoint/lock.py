"""The lock of a run directory: one process at a time writes checkpoints there.

It requires only exclusive file creation, not flock, which network file systems often do not support. The files
lock-00000001, lock-00000002 and so on are generations: a process takes the lock by creating the next one. The process
that created the last one holds the lock, and removes the earlier ones, so that their holders notice.

A lock is held while its file is touched every few seconds. Its age is measured against a file just written to
the same directory, so that both times come from the clock of the file server.
"""

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

TRAINING_UID = "RESNEXT_TRAINING_UID"
"""Environment variable with the UID of the ResNeXtTraining; unset outside Kubernetes."""

_NAME = re.compile(r"lock-(\d{8})")


@dataclass(frozen=True)
class Timing:
    """Intervals of a lock in seconds."""

    refresh: float = 10.0
    """Interval at which the holder touches its file."""
    expiry: float = 60.0
    """Age after which a lock that has not been touched is no longer held."""
    poll: float = 1.0
    """Interval of polling a lock that another process holds."""


@dataclass(frozen=True)
class Holder:
    """Holder of a lock."""

    training: str
    """UID of the training; random outside Kubernetes."""
    attempt: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """Unique token of this lock."""
    host: str = field(default_factory=socket.gethostname)
    process: str = field(default_factory=lambda: _process(os.getpid()))
    """Identity of the process, see `_process`; empty if unknown."""

    def __str__(self) -> str:
        return f"training {self.training}, attempt {self.attempt}, on host {self.host}"


_HOLDER = TypeAdapter(Holder)


def this_training(attempt: int) -> Holder:
    """This process as the holder of a lock."""
    return Holder(os.environ.get(TRAINING_UID) or f"local-{secrets.token_hex(8)}", attempt)


class Lock:
    """A lock that this process holds until it is released or another process takes it over."""

    def __init__(self, folder: Path, generation: int, holder: Holder, timing: Timing) -> None:
        self._folder, self._generation, self._holder, self._timing = folder, generation, holder, timing
        self._file = _path(folder, generation)
        self._ended, self._lost = threading.Event(), threading.Event()
        self._refresher = threading.Thread(target=self._refresh, name="checkpoint-lock", daemon=True)
        self._refresher.start()

    def check(self) -> None:
        """Raises TrainingError if the lock was lost, and OSError if that cannot be determined."""
        if self._lost.is_set() or not self._is_ours():
            self._lost.set()
            raise self._refused()

    def check_known(self) -> None:
        """Raises TrainingError if the loss of the lock is already known. Does not access files."""
        if self._lost.is_set():
            raise self._refused()

    def release(self) -> None:
        """Releases the lock."""
        self._ended.set()
        self._refresher.join(self._timing.refresh)
        with suppress(OSError):
            if not self._lost.is_set() and self._is_ours():
                self._file.unlink()

    def _refresh(self) -> None:
        while not self._ended.wait(self._timing.refresh):
            try:
                if not self._is_ours():
                    self._lost.set()
                    return
                os.utime(self._file)  # sets the time of the file server
            except FileNotFoundError:
                self._lost.set()
                return
            except OSError as error:
                log.warning("%s could not be refreshed (%s)", self._file, error)

    def _is_ours(self) -> bool:
        # Opening the file makes network file systems query the server.
        try:
            found = _read(self._file)
        except FileNotFoundError:
            return False
        later = _path(self._folder, self._generation + 1).exists()
        return found is not None and found.token == self._holder.token and not later

    def _refused(self) -> TrainingError:
        with suppress(OSError):
            for generation in reversed(_generations(self._folder)):
                if (other := _read(_path(self._folder, generation))) and other.token != self._holder.token:
                    return _locked(
                        f"{self._folder}: {other} took over the lock; this attempt writes no more checkpoints"
                    )
        return _locked(f"{self._folder}: the lock of this attempt was removed; it writes no more checkpoints")


def acquire(
    folder: Path,
    holder: Holder,
    timeout: float,
    note: Callable[[str], None] = log.warning,
    timing: Timing | None = None,
) -> Lock:
    """Acquires the lock of an existing directory.

    Raises TrainingError with CHECKPOINT_LOCKED if another process holds it for `timeout` seconds. A higher attempt of
    the same training takes over the lock immediately; a lower one fails immediately.
    """
    timing = timing or Timing()
    deadline, noted, watch = time.monotonic() + timeout, False, _Watch(folder, holder, timing)
    while True:
        generations = _generations(folder)
        if generations and (obstacle := watch.obstacle(generations[-1])):
            if obstacle.final or time.monotonic() >= deadline:
                if obstacle.final:
                    raise _locked(f"{folder} is locked by {obstacle}, a later attempt of this training: this one ends")
                raise _locked(
                    f"{folder} is locked by {obstacle} after waiting {timeout:g} s: stop that training, or set "
                    "checkpoints.subPath or checkpoint.path to another directory"
                )
            if not noted:
                note(f"{folder} is locked by {obstacle}: waiting up to {timeout:g} s")
            noted = True
            time.sleep(min(timing.poll, max(0.01, deadline - time.monotonic())))
            continue
        if lock := _create(folder, generations, watch, holder, timing):
            return lock
        time.sleep(0.05 * (1 + secrets.randbelow(10)) / 10)


@dataclass(frozen=True)
class _Obstacle:
    """Why a lock cannot be acquired now."""

    holder: Holder | None
    age: float
    final: bool
    """Whether waiting is useless."""

    def __str__(self) -> str:
        held = str(self.holder) if self.holder else "another process"
        return f"{held} (refreshed {max(0.0, self.age):.0f} s ago)"


class _Watch:
    """Checks the locks of other processes, and tracks how long a lock has been unchanged."""

    def __init__(self, folder: Path, holder: Holder, timing: Timing) -> None:
        self._folder, self._holder, self._timing = folder, holder, timing
        self.judged: dict[int, str | None] = {}
        """Token of each generation when it was checked."""
        self._unchanged: tuple[object, float] = (None, 0.0)

    def obstacle(self, generation: int) -> _Obstacle | None:
        """Why the next generation must not be created; None if it may."""
        file = _path(self._folder, generation)
        # Read the clocks before the lock: otherwise the time of slow accesses would count toward the age of a lock that
        # is being refreshed.
        now_on_server, now = self._server_time(), time.monotonic()
        try:
            found, touched = _read(file), file.stat().st_mtime
        except FileNotFoundError:
            self.judged = {}
            return None
        self.judged = {generation: found.token if found else None}
        higher = found is not None and found.training == self._holder.training and found.attempt > self._holder.attempt
        if found and found.training == self._holder.training and found.attempt < self._holder.attempt:
            return None
        if found and _ended(found.process):
            return None
        age = now_on_server - touched
        # The second condition handles times in the future, after the clock of the server was set back.
        if age > self._timing.expiry or self._seen_unchanged((generation, touched), now) > self._timing.expiry:
            return None
        return _Obstacle(found, age, final=higher)

    def _server_time(self) -> float:
        """Modification time of a file that is written now."""
        probe = self._folder / f".clock-{self._holder.token}"
        try:
            with probe.open("wb") as stream:
                stream.write(b"0")
                stream.flush()  # otherwise `close` writes, after fsync
                os.fsync(stream.fileno())
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _seen_unchanged(self, what: object, now: float) -> float:
        """Seconds between the first reading of `what` and `now`, which is before the last one."""
        if self._unchanged[0] != what:
            self._unchanged = (what, time.monotonic())
        return now - self._unchanged[1]


def _create(folder: Path, before: list[int], watch: _Watch, holder: Holder, timing: Timing) -> Lock | None:
    """Creates the next generation. Returns None if another process was faster."""
    generation = before[-1] + 1 if before else 1
    file = _path(folder, generation)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(json.dumps(asdict(holder)).encode())
        stream.flush()
        os.fsync(stream.fileno())
    # Numbers restart at 1 when all files are removed: this or another process may have started at 1.
    judged = watch.judged if before else {}
    for other in _generations(folder):
        with suppress(FileNotFoundError):
            superseded = other in judged or other in before[:-1]
            if other > generation or (other < generation and not superseded) or _changed(folder, other, judged):
                file.unlink(missing_ok=True)
                return None
    for earlier in before:
        _path(folder, earlier).unlink(missing_ok=True)
    return Lock(folder, generation, holder, timing)


def _changed(folder: Path, generation: int, judged: dict[int, str | None]) -> bool:
    """Whether the file of a generation has changed since it was checked."""
    if generation not in judged:
        return False
    found = _read(_path(folder, generation))
    return (found.token if found else None) != judged[generation]


def _generations(folder: Path) -> list[int]:
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def _path(folder: Path, generation: int) -> Path:
    return folder / f"lock-{generation:08d}"


def _read(file: Path) -> Holder | None:
    """Creator of a lock file; None while the file is being written, or if it cannot be parsed."""
    try:
        return _HOLDER.validate_json(file.read_bytes())
    except ValidationError:
        return None


def _process(pid: int) -> str:
    """Identity of a process on this machine until the next boot; empty if /proc is not available."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()} {pid} {_start(pid)}"
    except (OSError, ValueError, IndexError):
        return ""


def _start(pid: int) -> str:
    """Start time of a process; empty for a zombie."""
    state, *others = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return "" if state in "ZX" else others[18]


def _ended(process: str) -> bool:
    """Whether a process is known to have exited, which only works within this machine and PID namespace."""
    with suppress(ValueError, IndexError, OSError):
        boot, namespace, pid, start = process.split(" ")
        ours = _process(os.getpid()).split(" ")
        if ours[:2] != [boot, namespace]:
            return False
        try:
            return _start(int(pid)) != start
        except (FileNotFoundError, ProcessLookupError):
            return True
    return False


def _locked(message: str) -> TrainingError:
    return TrainingError(ExitStatus.CHECKPOINT_LOCKED, message)
