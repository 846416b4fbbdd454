"""TFRecord shards with an index next to each, for exact record counts and random access.

Both checksums of a record are verified on every read, because a JPEG with a corrupt byte often still decodes, to a
wrong image.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnext_trainer.data import files, image_codec, native_reader, shards
from resnext_trainer.data.datasets import record_index, shard_index
from resnext_trainer.data.datasets.example import IMAGENET, Features, example
from resnext_trainer.data.datasets.index_cache import LEAST_RECORDS, IndexCache
from resnext_trainer.data.datasets.record_framing import FOOTER, HEADER, checksum
from resnext_trainer.data.datasets.record_index import LAYOUT, IndexedShard
from resnext_trainer.data.datasets.shard_index import MAKE_INDEX, PROBED, check_kind, index, table
from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.image_dataset import ImageDataset, ReadImages
from resnext_trainer.data.native_reader import NativeReader
from resnext_trainer.data.read_ahead import ReadAhead
from resnext_trainer.data.shard_files import RecordSource, ShardFiles
from resnext_trainer.data.shards import SPLITS, data_error
from resnext_trainer.errors import system_error
from resnext_trainer.runtime import cpus
from resnext_trainer.text import printable

__all__ = ["SPLITS", "Features", "data_error", "index"]

_PREPARE = "convert the images with `resnext-train data prepare`, or set data.format to folder"
_CHANGED = "its checksum does not match: the shard is corrupt, or the index belongs to another shard"
_ELSEWHERE = f"the record is not where the index says; {MAKE_INDEX}"


@dataclass
class Records(ImageDataset):
    """The records of one split, numbered from 0 across its shards in the order of their names."""

    files: tuple[Path, ...]
    file: np.ndarray
    """Index into `files` for each record."""
    offset: np.ndarray
    length: np.ndarray
    features: Features = IMAGENET
    layouts: np.ndarray = field(default_factory=lambda: np.zeros(0, LAYOUT))
    """Of each record, for the native reader. An unknown layout becomes known when the record is first read."""
    native: NativeReader | None = field(default_factory=native_reader.load)
    cache: IndexCache | None = None

    def __post_init__(self) -> None:
        self.shards = ShardFiles(self.files, self.file, self.offset, self.length)
        self.reads = self.shards.reads
        self._source: RecordSource = self.shards
        if not len(self.layouts):
            self.layouts = np.zeros(len(self), LAYOUT)

    def __len__(self) -> int:
        return len(self.offset)

    def parts(self) -> list[Part]:
        """The shards. Their sizes come from the indexes, which `open_split` has checked against the files."""
        records = np.bincount(self.file, minlength=len(self.files))
        sizes = np.zeros(len(self.files), np.int64)
        np.add.at(sizes, self.file, self.length)
        return [Part(file.name, int(records[at]), int(sizes[at])) for at, file in enumerate(self.files)]

    @property
    def groups(self) -> list[np.ndarray]:
        """Record numbers by shard."""
        return self._by_shard(np.arange(len(self)))

    def save_index(self) -> None:
        """Keeps the layouts found so far, and loads those of other ranks."""
        if self.cache is None:
            return
        parts = zip(self.files, self._by_shard(self.length), self._by_shard(self.layouts), strict=True)
        mine = {file.name: IndexedShard(int(lengths.sum()), lengths, layouts) for file, lengths, layouts in parts}
        merged = self.cache.exchange(mine)
        self.layouts = np.concatenate([merged[file.name].layouts for file in self.files])
        if self.native is None or self.layouts["size"].all():
            self.cache = None  # nothing is left to find

    def _by_shard(self, of_records: np.ndarray) -> list[np.ndarray]:
        return np.split(of_records, np.searchsorted(self.file, np.arange(1, len(self.files))))

    def location(self, number: int) -> str:
        """Shard and offset of a record, for messages."""
        return f"{printable(self.files[self.file[number]])} at byte {self.offset[number]}"

    def read_record(self, number: int) -> tuple[bytes, int]:
        """JPEG and label of a record, as stored; raises ValueError, whose message does not contain the location."""
        record = self._source.read(number)
        jpeg, label = parsed(record, int(self.length[number]), self.features)
        unknown = self.native is not None and not self.layouts[number]["size"]
        if unknown and (layout := record_index.layout_of(record, jpeg, label, self.features)):
            self.layouts[number] = layout
        return jpeg, label

    def read_batch(self, numbers: np.ndarray) -> ReadImages:
        """Reads the records with a known layout by the native reader, in one call."""
        layouts = self.layouts[numbers]
        jpegs: list[bytes | None] = [None] * len(numbers)
        if self.native is not None:
            places = np.flatnonzero((layouts["size"] > 0) & (numbers >= 0))
            found = self._read_natively(self.native, numbers[places], layouts[places])
            for place, jpeg in zip(places.tolist(), found, strict=True):
                jpegs[place] = jpeg
        return ReadImages(jpegs, *(layouts[name].astype(np.int64) for name in ("label", "height", "width")))

    def _read_natively(self, native: NativeReader, numbers: np.ndarray, layouts: np.ndarray) -> list[bytes | None]:
        try:
            with self._source.located(numbers) as located:
                lengths = self.length[numbers]
                from_files = lengths[located.addresses == 0]
                self.reads.add(len(from_files), int(from_files.sum()))
                return native.read(located, self.offset[numbers], lengths, layouts)
        except files.BadFile:
            return [None] * len(numbers)  # `read_record` says which file, and why

    @contextmanager
    def reading_ahead(self, starts: np.ndarray, planned: np.ndarray, horizon: int) -> Iterator["Records"]:
        """The same records, whose blocks are read ahead as a whole; see `ReadAhead`."""
        ahead, records = ReadAhead(self.shards, starts, planned, horizon), copy(self)
        records._source = ahead
        try:
            yield records
        finally:
            ahead.close()

    def finish(self, numbers: np.ndarray) -> None:
        self._source.finish(numbers)


def parsed(record: bytes, length: int, features: Features) -> tuple[bytes, int]:
    """JPEG and label of a record that should have `length` bytes; raises ValueError if it is damaged or has no JPEG."""
    if len(record) < HEADER + FOOTER:
        raise ValueError(_ELSEWHERE)
    written, of_length = struct.unpack_from("<QI", record)
    if checksum(record[:8]) != of_length:
        raise ValueError(_CHANGED)
    if written != length - HEADER - FOOTER:
        raise ValueError(_ELSEWHERE)
    content = record[HEADER:-FOOTER]
    if checksum(content) != struct.unpack("<I", record[-FOOTER:])[0]:
        raise ValueError(_CHANGED)
    jpeg, label = example(content, features)
    if not image_codec.is_jpeg(jpeg) and (form := image_codec.format_name(jpeg)):
        raise ValueError(f"{features.image} contains {form}, but must contain JPEG; {_PREPARE}")
    return jpeg, label


def open_split(
    path: str,
    split: str,
    index_path: str | None = None,
    *,
    incomplete: bool = False,
    features: Features = IMAGENET,
    cache: Path | None = None,
) -> Records:
    """Opens a split and checks the size of every shard against its index.

    cache: directory of indexes that are kept for later starts; see `IndexCache`. Raises TrainingError if shards or
    indexes are missing, truncated, or inconsistent.
    """
    folder = _folder(path)
    found = shards.find(folder, split, incomplete=incomplete)
    if not found:
        raise data_error(
            f"no {split}-* file in {printable(path)}: set data.path to the directory with the shards"
            + shards.similar(folder, split)
        )
    indexes = Path(index_path) if index_path else folder
    indexed = record_index.load(indexes / record_index.NAME, features)
    known = [_indexed(file, indexed) for file in found]
    kept = IndexCache(cache, found, indexes, features) if cache is not None and not any(known) else None
    if kept is not None:
        indexed = kept.load()
        known = [_indexed(file, indexed) for file in found]
    parts = [part or _opened(file, indexes) for file, part in zip(found, known, strict=True)]
    numbers = np.repeat(np.arange(len(found), dtype=np.int32), [len(part.lengths) for part in parts])
    if not len(numbers):
        raise data_error(f"the {split}-* files in {printable(path)} contain no records")
    records = Records(
        found,
        numbers,
        np.concatenate([_offsets(part.lengths) for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        features,
        np.concatenate([part.layouts for part in parts]),
        cache=kept if len(numbers) >= LEAST_RECORDS else None,
    )
    if not indexed:
        records.save_index()
    return records


def _indexed(file: Path, indexed: Mapping[str, IndexedShard]) -> IndexedShard | None:
    """A shard from the index of all records; None if the index does not contain it, or if the file has another size."""
    part = indexed.get(file.name)
    if part is None or part.size != file.stat().st_size:
        return None
    check_kind(file, _offsets(part.lengths[:PROBED]))
    return part


def _opened(file: Path, indexes: Path) -> IndexedShard:
    """A shard from its own index, which contains no layouts."""
    lengths = table(file, indexes)[:, 1]
    return IndexedShard(int(lengths.sum()), lengths, np.zeros(len(lengths), LAYOUT))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    offsets: np.ndarray = lengths.cumsum() - lengths
    return offsets


def _folder(path: str) -> Path:
    folder = Path(path)
    try:
        is_folder = folder.stat() and folder.is_dir()
    except (OSError, ValueError) as error:
        if converted := system_error(error, path):
            raise converted from None
        is_folder = False
    if not is_folder:
        raise data_error(
            f"data.path: {printable(path)} is not a directory: mount the dataset there, or correct data.path"
        )
    return folder


def index_folder(
    path: str, index_path: str | None = None, *, incomplete: bool = False, features: Features = IMAGENET
) -> dict[str, int]:
    """Indexes every shard of a folder, and all of them together; returns the number of records by file name.

    Reads every record once. Raises TrainingError for shards that cannot be indexed; a damaged record is indexed without
    a layout.
    """
    folder, to = _folder(path), Path(index_path or path)
    found = [file for split in SPLITS for file in shards.find(folder, split, incomplete=incomplete)]
    if not found:
        raise data_error(
            f"no train-* or validation-* file in {printable(path)}: set --path to the directory with the shards"
            + shards.similar(folder, SPLITS[0])
        )
    to.mkdir(parents=True, exist_ok=True)
    return index_together(found, to, features)


def index_together(shards: Sequence[Path], indexes: Path, features: Features = IMAGENET) -> dict[str, int]:
    """Writes the index of each shard, and of all records; returns the number of records by name. Uses all cores."""

    def indexed(file: Path) -> IndexedShard:
        return index_shard(file, indexes / f"{file.name}.idx", features)

    with ThreadPoolExecutor(cpus.per_rank(), thread_name_prefix="shard") as pool:
        try:
            parts = dict(zip((file.name for file in shards), pool.map(indexed, shards), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    record_index.save(indexes / record_index.NAME, parts, features)
    return {name: len(part.lengths) for name, part in parts.items()}


def index_shard(file: Path, to: Path, features: Features) -> IndexedShard:
    """Writes the index of a shard, and returns it with the layouts of the records. Reads the shard once, in order."""
    lengths, layouts = [], []
    for length, record in shard_index.scan(file, whole=True):
        lengths.append(length)
        layouts.append(record_index.layout_in(record, length, features) or record_index.UNKNOWN)
    shard_index.save(to, lengths)
    return IndexedShard(sum(lengths), np.array(lengths, np.int64), np.array(layouts, LAYOUT))


def shard_name(split: str, shard: int, shards: int) -> str:
    """Name of a shard as in ImageNet, such as train-00000-of-01024."""
    return f"{split}-{shard:05d}-of-{shards:05d}"


def write(folder: Path, split: str, images: Sequence[tuple[bytes, int]], shards: int) -> None:
    """Writes (JPEG, label) pairs as shards with their indexes."""
    for shard in range(shards):
        write_shard(folder / shard_name(split, shard, shards), images[shard::shards])


def write_shard(file: Path, images: Iterable[tuple[bytes, int]]) -> int:
    """Writes one shard and its index; returns the number of records.

    The file gets its name only after it is complete and indexed. If an exception is raised, even by `images`, no
    file remains.
    """
    aside = file.with_name(f"{file.name}.tmp")
    try:
        _write_records(aside, images)
        count = index(aside, file.with_name(f"{file.name}.idx"))
        aside.rename(file)
    finally:
        aside.unlink(missing_ok=True)
    return count


def _write_records(file: Path, images: Iterable[tuple[bytes, int]]) -> None:
    from tensorflow.core.example.example_pb2 import Example

    with file.open("wb") as stream:
        for jpeg, label in images:
            record = Example()
            record.features.feature[Features.image].bytes_list.value.append(jpeg)
            record.features.feature[Features.label].int64_list.value.append(label)
            content = record.SerializeToString(deterministic=True)
            length = struct.pack("<Q", len(content))
            checksums = (struct.pack("<I", checksum(part)) for part in (length, content))
            try:
                stream.write(length + next(checksums) + content + next(checksums))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(file)) from None
