"""Shards of records with an index beside each: exact counts without reading, and any record at once.

An index holds one line a record, "offset length", as DALI's tfrecord2idx writes it. A record on disk is its length
(8 bytes), that length's checksum (4), a tf.train.Example, and its checksum (4). Both checksums are looked at whenever
a record is read: a changed byte in a JPEG may well decode, and teach something else. It takes 16 us for 110 KB.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import numpy as np

from resnext_trainer.fingerprint import Part
from resnext_trainer.refusal import Refused
from resnext_trainer.report import Verdict

_HEADER, _FOOTER = 12, 4
_NO_SHARDS = {".idx", ".tmp", ".tmp-idx"}
_MAKE_INDEX = "make it with `resnext-train data index --path DIR`"
_CHANGED = "its checksum differs: the bytes have changed since they were written, or the index is that of others"


SPLITS = ("train", "validation")


def refused(message: str, *, agreed: bool = False) -> Refused:
    """The data's fault, in words."""
    return Refused(Verdict.DATA_REFUSED, message, agreed=agreed)


@dataclass
class Records:
    """The records of one split, numbered from 0 over all its shards in the order of their names."""

    files: tuple[Path, ...]
    file: np.ndarray
    """Number of each record's file."""
    offset: np.ndarray
    length: np.ndarray
    _open: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offset)

    def parts(self) -> list[Part]:
        """The shards; their sizes are those that the indexes say, which `find` held against the files."""
        records = np.bincount(self.file, minlength=len(self.files))
        sizes = np.zeros(len(self.files), np.int64)
        np.add.at(sizes, self.file, self.length)
        return [Part(file.name, int(records[at]), int(sizes[at])) for at, file in enumerate(self.files)]

    def where(self, number: int) -> str:
        """A record's place, for a message."""
        return f"{self.files[self.file[number]]} at byte {self.offset[number]}"

    def read(self, number: int) -> tuple[bytes, int]:
        """A record's JPEG and its label as stored; raises Refused where it is not as it was written."""
        try:
            return self.stored(number)
        except ValueError as error:
            raise refused(f"{self.where(number)}: {error}") from None

    def stored(self, number: int) -> tuple[bytes, int]:
        """The same; ValueError says what is wrong with the record, and not which it is."""
        file, offset, length = (int(part[number]) for part in (self.file, self.offset, self.length))
        try:
            if file not in self._open:
                self._open[file] = os.open(self.files[file], os.O_RDONLY)
            record = os.pread(self._open[file], length, offset)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        if len(record) < _HEADER + _FOOTER:
            raise ValueError(f"the record is not where the index says; {_MAKE_INDEX}")
        written, of_length = struct.unpack_from("<QI", record)
        if _checksum(record[:8]) != of_length:
            raise ValueError(_CHANGED)
        if written != length - _HEADER - _FOOTER:
            raise ValueError(f"the record is not where the index says; {_MAKE_INDEX}")
        content = record[_HEADER:-_FOOTER]
        if _checksum(content) != struct.unpack("<I", record[-_FOOTER:])[0]:
            raise ValueError(_CHANGED)
        return example(content)


def _checksum(content: bytes) -> int:
    """CRC-32C, turned and shifted as TFRecords have it: so that a checksum among the bytes does no harm."""
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def example(stored: bytes) -> tuple[bytes, int]:
    """The JPEG and the label of a tf.train.Example; ValueError where it holds something else."""
    # TensorFlow's own message class: importing it here keeps indexing free of TensorFlow.
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    try:
        features = Example.FromString(stored).features.feature
    except DecodeError as error:
        raise ValueError(f"the record is not a tf.train.Example ({error})") from None
    images = features["image/encoded"].bytes_list.value
    labels = features["image/class/label"].int64_list.value
    if len(images) != 1 or len(labels) != 1:
        raise ValueError("the record needs one image/encoded and one image/class/label")
    return images[0], labels[0]


def find(path: str, split: str, index_path: str | None = None) -> Records:
    """The records of a split; every file is held against its index, so that a truncated one is named here."""
    folder = Path(path)
    if not folder.is_dir():
        raise refused(f"data.path is {path}, which is no folder here: mount the data set there, or set data.path")
    files = _shards(folder, split)
    if not files:
        raise refused(f"no {split}-* file in {path}: data.path needs the shards themselves in it")
    tables = [_table(file, Path(index_path) if index_path else folder) for file in files]
    numbers = np.repeat(np.arange(len(files)), [len(table) for table in tables])
    offset, length = np.concatenate(tables).T
    if not len(offset):
        raise refused(f"the {split}-* files in {path} hold no record")
    return Records(files, numbers, offset, length)


def _shards(folder: Path, split: str) -> tuple[Path, ...]:
    """A split's shards by name, without their indexes and what a killed command left half written."""
    return tuple(sorted(file for file in folder.glob(f"{split}-*") if file.suffix not in _NO_SHARDS))


def _table(file: Path, index_folder: Path) -> np.ndarray:
    """A file's (offset, length) rows."""
    index = index_folder / f"{file.name}.idx"
    try:
        numbers = [int(word) for word in index.read_text().split()]
        table = np.array(numbers, np.int64).reshape(-1, 2)
        starts = np.concatenate([[0], table[:, 1].cumsum()])
        if (table[:, 1] < _HEADER + _FOOTER).any() or (table[:, 0] != starts[:-1]).any():
            raise ValueError("its records do not lie one behind the other")
    except FileNotFoundError:
        raise refused(f"{index} is missing; {_MAKE_INDEX}") from None
    except (OSError, ValueError, OverflowError) as error:
        raise refused(f"{index} is no index ({error}); {_MAKE_INDEX}") from None
    expected, size = int(table[-1].sum()) if len(table) else 0, file.stat().st_size
    if size < expected:
        whole = int((table.sum(axis=1) <= size).sum())
        raise refused(
            f"{file} is truncated: it has {size} bytes and its index says {expected}; "
            f"record {whole} at byte {table[whole][0]} is the first that is cut"
        )
    if size > expected:
        raise refused(f"{file} has {size} bytes and its index ends at {expected}; {_MAKE_INDEX}")
    return table


def index(file: Path, to: Path) -> int:
    """Writes the index of one shard; returns the number of records. Only the lengths are read."""
    rows: list[str] = []
    offset, size = 0, file.stat().st_size
    with file.open("rb") as stream:
        while offset < size:
            stream.seek(offset)
            header = stream.read(_HEADER)
            length = struct.unpack_from("<Q", header)[0] + _HEADER + _FOOTER if len(header) == _HEADER else 0
            if not length or offset + length > size:
                raise refused(f"{file} is truncated: record {len(rows)} at byte {offset} is cut")
            rows.append(f"{offset} {length}\n")
            offset += length
    _replace(to, "".join(rows))
    return len(rows)


def index_folder(path: str, index_path: str | None = None) -> dict[str, int]:
    """Indexes every shard of a folder; records by file name."""
    folder, to = Path(path), Path(index_path or path)
    files = [file for split in SPLITS for file in _shards(folder, split)]
    if not files:
        raise refused(f"no train-* or validation-* file in {path}: --path needs the folder of the shards themselves")
    to.mkdir(parents=True, exist_ok=True)
    return {file.name: index(file, to / f"{file.name}.idx") for file in files}


def shard_name(split: str, shard: int, shards: int) -> str:
    """As ImageNet's are named: train-00000-of-01024."""
    return f"{split}-{shard:05d}-of-{shards:05d}"


def write(folder: Path, split: str, images: Sequence[tuple[bytes, int]], shards: int) -> None:
    """Writes (JPEG, label) pairs as shards with their indexes."""
    for shard in range(shards):
        write_shard(folder / shard_name(split, shard, shards), images[shard::shards])


def write_shard(file: Path, images: Iterable[tuple[bytes, int]]) -> int:
    """Writes one shard and its index; returns the number of records.

    The name appears only when the file is whole and indexed; an exception leaves nothing behind, also one of `images`.
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
    import tensorflow as tf

    try:
        with tf.io.TFRecordWriter(str(file)) as writer:
            for jpeg, label in images:
                features = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    except tf.errors.OpError as error:
        raise OSError(error.message) from None


def _replace(file: Path, text: str) -> None:
    aside = file.with_suffix(".tmp-idx")
    aside.write_text(text)
    aside.rename(file)
