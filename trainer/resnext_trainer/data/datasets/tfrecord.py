"""TFRecord shards with an index next to each, for exact record counts and random access.

An index has one line per record, "offset length", in the format of DALI's tfrecord2idx. A record is its length
(8 bytes), the checksum of the length (4), a tf.train.Example, and its checksum (4). Both checksums are verified on
every read (16 us for 110 KB), because a JPEG with a corrupt byte often still decodes, to a wrong image.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np

from resnext_trainer.data import files, image_codec, shards
from resnext_trainer.data.files import OpenFiles
from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.shards import SPLITS, data_error
from resnext_trainer.errors import system_error
from resnext_trainer.text import printable

__all__ = ["SPLITS", "data_error"]

_HEADER, _FOOTER = 12, 4
_PROBED = 3
"""Records whose headers are checked to identify a TFRecord file: one of them may be damaged."""
_MAKE_INDEX = "create the index with `resnext-train data index --path DIR`"
_PREPARE = "convert the images with `resnext-train data prepare`, or set data.format to folder"
_CHANGED = "its checksum does not match: the shard is corrupt, or the index belongs to another shard"


@dataclass(frozen=True)
class Features:
    """Names of the features that contain the image and the label."""

    image: str = "image/encoded"
    label: str = "image/class/label"


@dataclass
class Records(ImageDataset):
    """The records of one split, numbered from 0 across its shards in the order of their names."""

    files: tuple[Path, ...]
    file: np.ndarray
    """Index into `files` for each record."""
    offset: np.ndarray
    length: np.ndarray
    features: Features = Features()
    _open: OpenFiles = field(default_factory=OpenFiles)

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
        return np.split(np.arange(len(self)), np.searchsorted(self.file, np.arange(1, len(self.files))))

    def location(self, number: int) -> str:
        """Shard and offset of a record, for messages."""
        return f"{printable(self.files[self.file[number]])} at byte {self.offset[number]}"

    def read_record(self, number: int) -> tuple[bytes, int]:
        """JPEG and label of a record, as stored; raises ValueError, whose message does not contain the location."""
        file, offset, length = (int(part[number]) for part in (self.file, self.offset, self.length))
        record = self._open.read(self.files[file], length, offset)
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
        jpeg, label = example(content, self.features)
        if not image_codec.is_jpeg(jpeg) and (form := image_codec.format_name(jpeg)):
            raise ValueError(f"{self.features.image} contains {form}, but must contain JPEG; {_PREPARE}")
        return jpeg, label


def _checksum(content: bytes) -> int:
    """CRC-32C, masked as in the TFRecord format."""
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def example(stored: bytes, wanted: Features = Features()) -> tuple[bytes, int]:
    """JPEG and label of a serialized tf.train.Example; raises ValueError for a missing or mistyped feature."""
    # Imported here, so that indexing does not import TensorFlow.
    from google.protobuf.message import DecodeError
    from tensorflow.core.example.example_pb2 import Example

    try:
        features = Example.FromString(stored).features.feature
    except DecodeError as error:
        raise ValueError(f"the record is not a tf.train.Example ({error})") from None
    # Indexing a missing feature would add it.
    image: Sequence[bytes] = features[wanted.image].bytes_list.value if wanted.image in features else ()
    label: Sequence[int] = features[wanted.label].int64_list.value if wanted.label in features else ()
    if len(image) != 1 or len(label) != 1:
        kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
        raise ValueError(_other_features(wanted, tuple(sorted(kinds.items()))))
    return image[0], label[0]


_KINDS = {"bytes_list": "bytes", "int64_list": "integers", "float_list": "floats", None: "empty"}
_MOST_FEATURES = 12


@lru_cache(64)
def _other_features(wanted: Features, found: tuple[tuple[str, str | None], ...]) -> str:
    """Message that lists the features of a record and the settings to change."""
    kinds = dict(found)
    listed = ", ".join(f"{printable(name[:80])} ({_KINDS[kind]})" for name, kind in found[:_MOST_FEATURES])
    listed += ", ..." if len(found) > _MOST_FEATURES else ""
    advice = []
    for setting, name, kind, words in (
        ("imageFeature", wanted.image, "bytes_list", ("image", "jpeg", "png")),
        ("labelFeature", wanted.label, "int64_list", ("label", "class", "target")),
    ):
        if kinds.get(name) != kind:
            likely = [other for other in kinds if kinds[other] == kind and any(word in other.lower() for word in words)]
            advice.append(f"data.{setting} to {printable(min(likely, key=len)) if likely else 'its name'}")
    return (
        f"the record needs one {wanted.image} (bytes) and one {wanted.label} (integer), but has "
        f"{listed or 'no feature'}" + (f": set {' and '.join(advice)}" if advice and found else "")
    )


def open_split(
    path: str,
    split: str,
    index_path: str | None = None,
    *,
    incomplete: bool = False,
    features: Features = Features(),
) -> Records:
    """Opens a split and checks the size of every shard against its index.

    Raises TrainingError if shards or indexes are missing, truncated, or inconsistent.
    """
    folder = _folder(path)
    found = shards.find(folder, split, incomplete=incomplete)
    if not found:
        raise data_error(
            f"no {split}-* file in {printable(path)}: set data.path to the directory with the shards"
            + shards.similar(folder, split)
        )
    tables = [_table(file, Path(index_path) if index_path else folder) for file in found]
    numbers = np.repeat(np.arange(len(found)), [len(table) for table in tables])
    offset, length = np.concatenate(tables).T
    if not len(offset):
        raise data_error(f"the {split}-* files in {printable(path)} contain no records")
    return Records(found, numbers, offset, length, features)


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


def _table(file: Path, index_folder: Path) -> np.ndarray:
    """A file's (offset, length) rows."""
    index, shown = _index_of(file, index_folder), printable(file)
    try:
        numbers = [int(word) for word in files.read(index).split()]
        table = np.array(numbers, np.int64).reshape(-1, 2)
        starts = np.concatenate([[0], table[:, 1].cumsum()])
        if (table[:, 1] < _HEADER + _FOOTER).any() or (table[:, 0] != starts[:-1]).any():
            raise ValueError("its records are not contiguous")
    except (ValueError, OverflowError) as error:
        raise data_error(f"{printable(index)} is not a valid index ({_short(error)}); {_MAKE_INDEX}") from None
    expected, size = int(table[-1].sum()) if len(table) else 0, file.stat().st_size
    if (found := _other_kind(file, table)) is not None:
        raise data_error(f"{shown} is not a TFRecord file: it is {found}")
    if size < expected:
        whole = int((table.sum(axis=1) <= size).sum())
        raise data_error(
            f"{shown} is truncated: it has {size} bytes, but its index expects {expected}; record {whole} at byte "
            f"{table[whole][0]} is the first incomplete one: copy the shard again"
        )
    if size > expected:
        raise data_error(f"{shown} has {size} bytes, but its index ends at {expected}; {_MAKE_INDEX}")
    return table


def _short(error: Exception) -> str:
    return printable(str(error)[:200])


def _index_of(file: Path, index_folder: Path) -> Path:
    """NAME.idx, or NAME in a separate index folder, as in NVIDIA's scripts."""
    index = index_folder / f"{file.name}.idx"
    bare = index_folder / file.name
    for candidate in (index, bare):
        try:
            status = candidate.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise system_error(error, candidate) or data_error(
                f"{printable(candidate)} is not a valid index ({error.strerror}); {_MAKE_INDEX}"
            ) from None
        if candidate == index or not os.path.samestat(status, file.stat()):
            return candidate
    start = _start(file)
    if not _is_header(start[:_HEADER]) and (what := shards.kind(start)):
        raise data_error(f"{printable(file)} is not a TFRecord file: it is {what}")
    raise data_error(f"{printable(index)} is missing; {_MAKE_INDEX}")


def _other_kind(file: Path, table: np.ndarray) -> str | None:
    """Kind of a file that is not a TFRecord file, else None; a single damaged record does not count as another kind."""
    start = _start(file)
    if _is_header(start[:_HEADER]) or not len(table):
        return None
    if any(_is_header(_part(file, int(offset))) for offset, _ in table[1:_PROBED]):
        return None
    return shards.kind(start) if len(table) <= 1 else shards.kind(start) or _UNKNOWN


_UNKNOWN = "of an unknown kind, or its index belongs to another file: copy the file or create the index again"


def _start(file: Path) -> bytes:
    try:
        return shards.start(file)
    except files.BadFile as error:
        raise data_error(f"{printable(file)}: {error}") from None


def _part(file: Path, offset: int) -> bytes:
    descriptor = files.open_regular(file)
    try:
        return os.pread(descriptor, _HEADER, offset)
    except OSError as error:
        raise files.failure(error, file) from None
    finally:
        os.close(descriptor)


def _is_header(header: bytes) -> bool:
    """Whether these bytes are a record header: a length and its checksum."""
    return len(header) == _HEADER and _checksum(header[:8]) == struct.unpack_from("<I", header, 8)[0]


def index(file: Path, to: Path) -> int:
    """Writes the index of one shard and returns the number of records. Reads the record headers only.

    Raises TrainingError if the file is not a TFRecord file, is damaged, or is truncated.
    """
    rows: list[str] = []
    shown, start, offset = printable(file), _start(file), 0
    if start and not _is_header(start[:_HEADER]):
        what = shards.kind(start)
        # Without a valid length, the next record cannot be found.
        raise data_error(
            f"{shown} is not a TFRecord file: it is {what}"
            if what
            else f"{shown} is damaged or not a TFRecord file: the checksum of its first length does not match"
        )
    with os.fdopen(_opened(file), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        while offset < size:
            stream.seek(offset)
            header = stream.read(_HEADER)
            length = struct.unpack_from("<Q", header)[0] + _HEADER + _FOOTER if len(header) == _HEADER else 0
            if length and not _is_header(header):
                raise data_error(
                    f"{shown} is damaged: the checksum of the length of record {len(rows)} at byte {offset} does not "
                    "match: copy the shard again"
                )
            if not length or offset + length > size:
                raise data_error(
                    f"{shown} is truncated: record {len(rows)} at byte {offset} is incomplete: copy the shard again"
                )
            rows.append(f"{offset} {length}\n")
            offset += length
    _replace(to, "".join(rows))
    return len(rows)


def _opened(file: Path) -> int:
    try:
        return files.open_regular(file)
    except files.BadFile as error:
        raise data_error(f"{printable(file)}: {error}") from None


def index_folder(path: str, index_path: str | None = None, *, incomplete: bool = False) -> dict[str, int]:
    """Indexes every shard of a folder; returns the number of records by file name. Raises TrainingError."""
    folder, to = _folder(path), Path(index_path or path)
    found = [file for split in SPLITS for file in shards.find(folder, split, incomplete=incomplete)]
    if not found:
        raise data_error(
            f"no train-* or validation-* file in {printable(path)}: set --path to the directory with the shards"
            + shards.similar(folder, SPLITS[0])
        )
    to.mkdir(parents=True, exist_ok=True)
    return {file.name: index(file, to / f"{file.name}.idx") for file in found}


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
            checksums = (struct.pack("<I", _checksum(part)) for part in (length, content))
            try:
                stream.write(length + next(checksums) + content + next(checksums))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(file)) from None


def _replace(file: Path, text: str) -> None:
    aside = file.with_suffix(".tmp-idx")
    aside.write_text(text, encoding="ascii")
    aside.rename(file)
