"""Index of all records of a dataset in one file: position, label, size and checksum of every image.

`resnext-train data index` creates it. With it, a training opens one file instead of one index per shard, and the native
reader takes the JPEG out of a record without parsing it. The index is only a shortcut: a shard whose size differs is
opened by its own index, and a record that does not match is read, checked and reported by the Python reader.
"""

import io
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnext_trainer.data import files
from resnext_trainer.data.crops import jpeg_size, regular
from resnext_trainer.data.datasets.example import Features, example, locate
from resnext_trainer.data.datasets.record_framing import FOOTER, HEADER, is_intact
from resnext_trainer.runtime.once_per_pod import warn_once_per_pod
from resnext_trainer.text import printable

log = logging.getLogger(__name__)

NAME = "records.index"

LAYOUT = np.dtype(
    [
        ("start", np.uint32),  # of the JPEG, in bytes from the end of the record's header
        ("size", np.uint32),  # of the JPEG in bytes; 0 if the layout is unknown
        ("label", np.int32),  # as stored
        ("height", np.uint16),
        ("width", np.uint16),
        ("checksum", np.uint32),  # of the content, masked
    ]
)
"""The data about a record that the native reader needs; the same as `struct layout` in record_reader.c."""

_FORMAT = 1


@dataclass(frozen=True)
class IndexedShard:
    """The records of one shard, in the order of the file."""

    size: int
    """Of the file in bytes."""
    lengths: np.ndarray
    """Of each record in bytes, with its framing."""
    layouts: np.ndarray


class Layout(NamedTuple):
    """A row of LAYOUT."""

    start: int
    size: int
    label: int
    height: int
    width: int
    checksum: int


UNKNOWN = Layout(0, 0, 0, 0, 0, 0)


def layout_of(record: bytes, jpeg: bytes, label: int, features: Features) -> Layout | None:
    """Layout of an intact record with this image and label; None if only the Python reader can read it.

    That is the case if the Example has an unusual encoding, if the image is not a JPEG, or if libjpeg would skip bytes
    in the header of the JPEG.
    """
    content = record[HEADER:-FOOTER]
    found = locate(content, features)
    if found is None or found.label != label or not -(2**31) <= label < 2**31:
        return None
    if content[found.start : found.start + found.size] != jpeg:
        return None
    try:
        height, width = jpeg_size(jpeg)
        if regular(jpeg) is not jpeg:
            return None
    except ValueError:
        return None
    return Layout(found.start, found.size, label, height, width, int.from_bytes(record[-FOOTER:], "little"))


def layout_in(record: bytes, length: int, features: Features) -> Layout | None:
    """Like `layout_of`, for a record that should have this length in bytes; None if it is damaged."""
    if not is_intact(record, length):
        return None
    try:
        return layout_of(record, *example(record[HEADER:-FOOTER], features), features)
    except ValueError:
        return None


def save(file: Path, shards: Mapping[str, IndexedShard], features: Features) -> None:
    """Writes an index of these shards, by name of their files."""
    parts = list(shards.values())
    stream = io.BytesIO()
    np.savez(
        stream,
        format=np.array(_FORMAT),
        features=np.array([features.image, features.label]),
        names=np.array([name.encode("utf-8", "surrogateescape") for name in shards]),
        sizes=np.array([part.size for part in parts], np.int64),
        counts=np.array([len(part.lengths) for part in parts], np.int64),
        lengths=np.concatenate([part.lengths for part in parts]).astype(np.int64),
        layouts=np.concatenate([part.layouts for part in parts]),
    )
    aside = file.with_name(f".{file.name}.tmp")
    try:
        aside.write_bytes(stream.getbuffer())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def load(
    file: Path, features: Features, remedy: str = "create it again with `resnext-train data index`"
) -> dict[str, IndexedShard]:
    """The shards of an index, by name; empty if there is none, or if it is damaged, which is logged.

    The layouts are unknown if the index was created for other features.
    """
    if not file.is_file():
        return {}
    try:
        with np.load(io.BytesIO(files.read(file)), allow_pickle=False) as stored:
            return _parsed({name: stored[name] for name in stored.files}, features)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warn_once_per_pod(log, f"{printable(file)} is ignored, because it is not a valid index ({error}): {remedy}")
        return {}


def _parsed(stored: Mapping[str, Any], features: Features) -> dict[str, IndexedShard]:
    lengths, layouts, counts, sizes = (stored[name] for name in ("lengths", "layouts", "counts", "sizes"))
    if stored["format"] != _FORMAT or layouts.dtype != LAYOUT:
        raise ValueError("it has another format")
    if not (len(stored["names"]) == len(counts) == len(sizes)) or not (counts.sum() == len(lengths) == len(layouts)):
        raise ValueError("its parts have different lengths")
    if (counts < 0).any() or (lengths < HEADER + FOOTER).any():
        raise ValueError("it contains invalid sizes")
    within = layouts["start"].astype(np.int64) + layouts["size"] <= lengths - HEADER - FOOTER
    if stored["features"].tolist() != [features.image, features.label] or not within.all():
        layouts = np.zeros_like(layouts)
    ends = counts.cumsum()
    return {
        name.decode("utf-8", "surrogateescape"): IndexedShard(
            int(size), lengths[end - count : end], layouts[end - count : end]
        )
        for name, size, count, end in zip(stored["names"].tolist(), sizes, counts, ends, strict=True)
        if lengths[end - count : end].sum() == size
    }
