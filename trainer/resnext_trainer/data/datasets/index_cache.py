"""Index of a split without `records.index`, kept on the disk of the machine or pod.

Such a split is opened with one index per shard, and its layouts become known only as the records are read. The kept
index saves later starts from doing both again, and lets the ranks of a pod share the layouts that each of them found.
Nothing is written to the directory of the dataset.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from resnext_trainer.config.data import Data
from resnext_trainer.data.datasets import record_index
from resnext_trainer.data.datasets.example import Features
from resnext_trainer.data.datasets.record_index import IndexedShard
from resnext_trainer.text import printable

log = logging.getLogger(__name__)

LEAST_RECORDS = 50_000
"""The index of a split with fewer records is not kept: it opens in 50 ms, and all of its records are soon read."""

_NAME = "resnext-indexes"


def directory(data: Data) -> Path | None:
    """Directory of the kept indexes: in data.cache if that is a directory, otherwise in the user's cache directory.

    None if there is neither, or if it is inside the dataset.
    """
    if data.cache is not None and data.cache.startswith("/"):
        parent = Path(data.cache)
    elif (configured := os.environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        parent = Path(configured)
    else:
        try:
            parent = Path.home() / ".cache"
        except RuntimeError:
            return None
    inside = any(
        parent.resolve().is_relative_to(Path(each).resolve())
        for each in (data.path, data.index_path)
        if each is not None
    )
    return None if inside else parent / _NAME


class IndexCache:
    """The kept index of one split."""

    def __init__(self, folder: Path, shards: Sequence[Path], indexes: Path, features: Features) -> None:
        """indexes: directory with the indexes of the shards."""
        place: list[str | Path] = [shards[0].absolute(), indexes.absolute(), features.image, features.label]
        self._dataset, self._folder, self._features = shards[0].parent, folder, features
        self._prefix = _digest(os.fsencode(each) for each in place)
        # If a shard or an index has been replaced, the name of the file is different.
        self._file = folder / f"{self._prefix}-{_digest(_versions(shards, indexes))}.index"

    def load(self) -> dict[str, IndexedShard]:
        """The shards by name; empty if there is no index."""
        return record_index.load(self._file, self._features, "it is replaced")

    def exchange(self, mine: Mapping[str, IndexedShard]) -> Mapping[str, IndexedShard]:
        """Keeps the layouts of these shards, and returns them merged with the layouts that other ranks have found."""
        try:
            with self._locked():
                theirs = self.load()
                merged = {name: _merged(part, theirs.get(name)) for name, part in mine.items()}
                if not theirs or _known(merged) > _known(theirs):
                    for outdated in self._folder.glob(f"{self._prefix}-*"):
                        outdated.unlink()
                    record_index.save(self._file, merged, self._features)
            return merged
        except OSError as error:
            log.info(
                "the index of %s cannot be kept in %s: %s: check the permissions and the free space of this directory, "
                "or run `resnext-train data index`",
                *(printable(self._dataset), printable(self._folder), error),
            )
            return mine

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _digest(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()[:16]


def _versions(shards: Sequence[Path], indexes: Path) -> Iterator[bytes]:
    """Name, size and modification time of each shard and of its index, which has one of two names."""
    for shard in shards:
        for file in (shard, indexes / f"{shard.name}.idx", indexes / shard.name):
            with suppress(OSError):
                status = file.stat()
                yield os.fsencode(file.name) + b"\0%d %d" % (status.st_size, status.st_mtime_ns)


def _merged(mine: IndexedShard, theirs: IndexedShard | None) -> IndexedShard:
    if theirs is None or not np.array_equal(mine.lengths, theirs.lengths):
        return mine
    unknown = mine.layouts["size"] == 0
    return IndexedShard(mine.size, mine.lengths, np.where(unknown, theirs.layouts, mine.layouts))


def _known(shards: Mapping[str, IndexedShard]) -> int:
    return sum(int(np.count_nonzero(part.layouts["size"])) for part in shards.values())
