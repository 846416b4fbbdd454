"""Copies of shards on a local disk or in memory, made once per pod in the background.

One rank of a pod holds a lock and copies; the others use its copies as they appear. A copy gets its name only when it
is complete. Reads go to the original of every shard without a copy.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from resnext_trainer.data.shard_files import ShardFiles
from resnext_trainer.runtime.once_per_pod import warn_once_per_pod
from resnext_trainer.text import printable

log = logging.getLogger(__name__)

MEMORY = "memory"
_SHARED_MEMORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")

_POLL_SECONDS = 2.0
_PROGRESS_SECONDS = 30.0
_CHUNK = 8 << 20

_MEMORY_SHARE = 0.75
"""Fraction of the free memory that copies may use: the memory use of the training still grows after copying has
started."""


class ShardCache:
    """Copies the files of several splits into a directory, and makes the splits read them."""

    def __init__(self, place: str, splits: Sequence[ShardFiles]) -> None:
        """place: "memory" or a directory."""
        root = _SHARED_MEMORY if place == MEMORY else Path(place)
        self._in_memory = place == MEMORY
        originals = [(split, number, file) for split in splits for number, file in enumerate(split.paths)]
        self._missing = [(split, number, file, file.stat()) for split, number, file in originals]
        # Another version of the dataset has another folder, so that its copies are never mistaken for these.
        identity = hashlib.sha256()
        for _, _, file, status in self._missing:
            identity.update(os.fsencode(file.absolute()) + b"\0%d %d\n" % (status.st_size, status.st_mtime_ns))
        self.folder = root / f"resnext-{identity.hexdigest()[:16]}"
        self._total = len(self._missing)
        self._stopped = threading.Event()
        self._lock: IO[str] | None = None

    def start(self) -> None:
        """Copies, or waits for the copies of another rank, in a thread that ends with the process."""
        threading.Thread(target=self.run, name="shard-cache", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread after the current chunk."""
        self._stopped.set()

    def run(self) -> None:
        """Returns when all shards are read from copies, or when they cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Released by the kernel when the process ends; another rank then continues.
            # It is kept after an error too, so that the other ranks do not repeat the failed attempt.
            self._lock = (self.folder / "lock").open("w", encoding="ascii")
            while self._adopt() and not self._stopped.is_set():
                with suppress(BlockingIOError):
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._copy_all()
                    return
                self._stopped.wait(_POLL_SECONDS)
        except OSError as error:
            warn_once_per_pod(
                log, f"data.cache: {error}; the shards are read from data.path: correct or remove data.cache"
            )

    def _adopt(self) -> bool:
        """Reads from the copies that are complete; returns whether any is missing."""
        for each in list(self._missing):
            split, number, file, status = each
            copy = self.folder / file.name
            with suppress(FileNotFoundError):
                if copy.stat().st_size == status.st_size:
                    split.use_copy(number, copy)
                    self._missing.remove(each)
        return bool(self._missing)

    def _copy_all(self) -> None:
        for left_over in self.folder.glob("*.partial"):
            left_over.unlink()
        self._adopt()  # what another rank completed before it ended
        needed, free = sum(status.st_size for *_, status in self._missing), self._free()
        if needed > free:
            log.warning(
                "data.cache: %d shards need %s, but %s has only %s free: they are read from data.path; free space, or "
                "remove data.cache",
                len(self._missing), _size(needed), printable(self.folder.parent), _size(free),
            )  # fmt: skip
            return
        reported = time.monotonic()
        log.warning(
            "data.cache: copying %d shards (%s) to %s", len(self._missing), _size(needed), printable(self.folder)
        )
        for _, _, file, status in list(self._missing):
            if not self._copy(file, status.st_size):
                return
            self._adopt()
            if time.monotonic() - reported > _PROGRESS_SECONDS or not self._missing:
                reported = time.monotonic()
                log.warning("data.cache: copied %d of %d shards", self._total - len(self._missing), self._total)

    def _copy(self, file: Path, size: int) -> bool:
        """Copies one shard; False if stopped. Raises OSError, and leaves no partial copy."""
        partial = self.folder / f"{file.name}.partial"
        try:
            with file.open("rb") as source, partial.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    if self._stopped.is_set():
                        return False
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            if (copied := partial.stat().st_size) != size:
                raise OSError(f"{printable(file)} had {size} bytes, but {copied} were copied")
            partial.replace(self.folder / file.name)
            return True
        finally:
            partial.unlink(missing_ok=True)

    def _free(self) -> int:
        """Bytes that copies may take."""
        free = shutil.disk_usage(self.folder).free
        if self._in_memory:
            free = min([free, *(int(_MEMORY_SHARE * bytes_) for bytes_ in _free_memory())])
        return free


def _free_memory() -> Iterator[int]:
    """Free memory of the machine and of the container, in bytes; page cache counts as free."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        yield next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most, used = (int((_CGROUP / name).read_text(encoding="ascii")) for name in (limit, usage))
            lines = (_CGROUP / limit).with_name("memory.stat").read_text(encoding="ascii").splitlines()
            yield most - used + sum(int(line.split()[1]) for line in lines if line.split()[0] == cache)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
