"""Index of one shard: a text file with a line "offset length" for each record, as DALI's tfrecord2idx writes it.

The index gives exact record counts and random access; the records themselves are not read.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from resnext_trainer.data import files, shards
from resnext_trainer.data.datasets.record_framing import FOOTER, HEADER, is_header
from resnext_trainer.data.shards import data_error
from resnext_trainer.errors import system_error
from resnext_trainer.text import printable

PROBED = 3
"""Records whose headers are checked to identify a TFRecord file: one of them may be damaged."""

MAKE_INDEX = "create the index with `resnext-train data index --path DIR`"


def table(file: Path, index_folder: Path) -> np.ndarray:
    """A shard's (offset, length) rows; raises TrainingError unless they cover the whole file."""
    index, shown = _index_of(file, index_folder), printable(file)
    try:
        numbers = [int(word) for word in files.read(index).split()]
        rows = np.array(numbers, np.int64).reshape(-1, 2)
        starts = np.concatenate([[0], rows[:, 1].cumsum()])
        if (rows[:, 1] < HEADER + FOOTER).any() or (rows[:, 0] != starts[:-1]).any():
            raise ValueError("its records are not contiguous")
    except (ValueError, OverflowError) as error:
        raise data_error(f"{printable(index)} is not a valid index ({_short(error)}); {MAKE_INDEX}") from None
    expected, size = int(rows[-1].sum()) if len(rows) else 0, file.stat().st_size
    check_kind(file, rows[:, 0])
    if size < expected:
        whole = int((rows.sum(axis=1) <= size).sum())
        raise data_error(
            f"{shown} is truncated: it has {size} bytes, but its index expects {expected}; record {whole} at byte "
            f"{rows[whole][0]} is the first incomplete one: copy the shard again"
        )
    if size > expected:
        raise data_error(f"{shown} has {size} bytes, but its index ends at {expected}; {MAKE_INDEX}")
    return rows


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
                f"{printable(candidate)} is not a valid index ({error.strerror}); {MAKE_INDEX}"
            ) from None
        if candidate == index or not os.path.samestat(status, file.stat()):
            return candidate
    start = _start(file)
    if not is_header(start[:HEADER]) and (what := shards.kind(start)):
        raise data_error(f"{printable(file)} is not a TFRecord file: it is {what}")
    raise data_error(f"{printable(index)} is missing; {MAKE_INDEX}")


def check_kind(file: Path, offsets: np.ndarray) -> None:
    """Raises TrainingError if a file is not a TFRecord file. A TFRecord file with one damaged record is accepted."""
    start = _start(file)
    if is_header(start[:HEADER]) or not len(offsets):
        return
    if any(is_header(_part(file, int(offset))) for offset in offsets[1:PROBED]):
        return
    kind = shards.kind(start) if len(offsets) <= 1 else shards.kind(start) or _UNKNOWN
    if kind is not None:
        raise data_error(f"{printable(file)} is not a TFRecord file: it is {kind}")


_UNKNOWN = "of an unknown kind, or its index belongs to another file: copy the file or create the index again"


def _start(file: Path) -> bytes:
    try:
        return shards.start(file)
    except files.BadFile as error:
        raise data_error(f"{printable(file)}: {error}") from None


def _part(file: Path, offset: int) -> bytes:
    descriptor = files.open_regular(file)
    try:
        return os.pread(descriptor, HEADER, offset)
    except OSError as error:
        raise files.failure(error, file) from None
    finally:
        os.close(descriptor)


def index(file: Path, to: Path) -> int:
    """Writes the index of one shard and returns the number of records. Reads the record headers only.

    Raises TrainingError if the file is not a TFRecord file, is damaged, or is truncated.
    """
    lengths = [length for length, _ in scan(file)]
    save(to, lengths)
    return len(lengths)


def save(to: Path, lengths: Sequence[int]) -> None:
    """Writes the index of a shard whose records have these lengths in bytes."""
    rows = (f"{end - length} {length}\n" for length, end in zip(lengths, accumulate(lengths), strict=True))
    aside = to.with_suffix(".tmp-idx")
    aside.write_text("".join(rows), encoding="ascii")
    aside.rename(to)


def scan(file: Path, *, whole: bool = False) -> Iterator[tuple[int, bytes]]:
    """Length of each record in bytes, and its header or, if `whole`, all of its bytes.

    The content of a record may be damaged. Raises TrainingError like `index`.
    """
    shown, start, offset, number = printable(file), _start(file), 0, 0
    if start and not is_header(start[:HEADER]):
        what = shards.kind(start)
        # Without a valid length, the next record cannot be found.
        raise data_error(
            f"{shown} is not a TFRecord file: it is {what}"
            if what
            else f"{shown} is damaged or not a TFRecord file: the checksum of its first length does not match"
        )
    try:
        with os.fdopen(_opened(file), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            while offset < size:
                stream.seek(offset)
                header = stream.read(HEADER)
                length = struct.unpack_from("<Q", header)[0] + HEADER + FOOTER if len(header) == HEADER else 0
                if length and not is_header(header):
                    raise data_error(
                        f"{shown} is damaged: the checksum of the length of record {number} at byte {offset} does not "
                        "match: copy the shard again"
                    )
                if not length or offset + length > size:
                    raise data_error(
                        f"{shown} is truncated: record {number} at byte {offset} is incomplete: copy the shard again"
                    )
                yield length, header + stream.read(length - HEADER) if whole else header
                offset += length
                number += 1
    except OSError as error:
        raise data_error(f"{shown}: {files.failure(error, file)}") from None


def _opened(file: Path) -> int:
    try:
        return files.open_regular(file)
    except files.BadFile as error:
        raise data_error(f"{printable(file)}: {error}") from None
