"""Finds the shards of a split in a folder, and identifies files that are not shards.

Every file whose name begins with the split is either used or rejected with a message. Only hidden files, folders
without a shard name, and indexes are skipped.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import files
from resnext_trainer.data.problem_summary import NAMED, named
from resnext_trainer.errors import TrainingError, system_error
from resnext_trainer.text import counted, printable

SPLITS = ("train", "validation")

_SUFFIX = r"(?P<suffix>\.(?:tfrecords?|tfrec|records?))?"
_NUMBERED = re.compile(r"-(?P<number>\d{1,18})-of-(?P<count>\d{1,18})" + _SUFFIX)
_NAMED = re.compile(r"(?:[-_][^.\s~()]*)?" + _SUFFIX)
_INDEXES = (".idx", ".tmp-idx")

_MOST_SHARDS = 1_000_000

_STARTS = (
    (b"\x1f\x8b", "compressed with gzip: decompress it (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it (unzstd)"),
    (b"BZh", "compressed with bzip2: decompress it (bunzip2)"),
    (b"\xfd7zXZ", "compressed with xz: decompress it (unxz)"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: decompress it (unlz4)"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"PK\x05\x06", "an empty zip archive: download it again"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the content with `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer: fetch the content with `git annex get`"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\xff\xd8\xff", "a JPEG: set data.format to folder, or make shards with `resnext-train data prepare`"),
    (b"\x89PNG", "a PNG: set data.format to folder, or make shards with `resnext-train data prepare`"),
    (b"\x7fELF", "a program"),
)
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_TEXTS = (
    (
        re.compile(rb"(?i)<(!doctype )?html"),
        "an HTML page, such as the error page of a failed download: download it again",
    ),
    (re.compile(rb"<\?xml|<Error>"), "XML, such as the error response of a failed download: download it again"),
    (re.compile(rb"[{\[]"), "JSON, such as the error response of a failed download: download it again"),
    (re.compile(rb"\\?(MD5|SHA\d+|[0-9a-fA-F]{32,128})[ \t(]"), "a list of checksums: move it elsewhere"),
)
_HEAD = 512
"""Bytes read to identify a file."""


def data_error(message: str, *, collective: bool = False) -> TrainingError:
    """TrainingError for invalid data."""
    return TrainingError(ExitStatus.INVALID_DATA, message, collective=collective)


def find(folder: Path, split: str, *, incomplete: bool = False) -> tuple[Path, ...]:
    """Shards of a split, ordered by name.

    Raises TrainingError if shards are missing or empty (unless `incomplete`) or if files are not shards.
    """
    names = sorted(name for name in _listed(folder) if name.startswith(split))
    candidates = [name for name in names if not name.endswith(_INDEXES) and not _is_folder(folder / name, split)]
    if not candidates:
        return ()
    numbered = {name: match for name in candidates if (match := _NUMBERED.fullmatch(name, len(split)))}
    strange = [name for name in candidates if name not in numbered and (numbered or not _named(name, split))]
    if strange:
        among = f"; the shards are named like {printable(next(iter(numbered)))}" if numbered else ""
        raise data_error(
            f"{_names(strange)} in {printable(folder)}: the name begins with {split} but is not a shard name{among}: "
            "delete, move or rename the file"
        )
    if numbered:
        _check_division(folder, split, numbered, incomplete=incomplete)
    problems = [(name, why) for name in candidates if (why := _problem(folder / name, incomplete=incomplete))]
    if problems:
        raise data_error(
            f"in {printable(folder)}: " + named([f"{printable(name)} {why}" for name, why in problems], len(problems))
            + ": copy the shard again, or re-create the dataset"
        )  # fmt: skip
    return tuple(folder / name for name in candidates)


def any_of(folder: Path) -> bool:
    """Whether a folder contains a file whose name begins with a split."""
    return any(name.startswith(SPLITS) and not (folder / name).is_dir() for name in _listed(folder))


def similar(folder: Path, split: str) -> str:
    """Hint for files whose names contain the split, such as imagenet2012-train.tfrecord-00000-of-01024."""
    found = sorted(name for name in _listed(folder) if split in name[1:] and not name.startswith("."))
    if not found:
        return ""
    return (
        f"; found {printable(found[0])}" + (f" and {len(found) - 1:,} more" if len(found) > 1 else "")
        + f": rename or link them as {split}-00000-of-{len(found):05d} and so on"
    )  # fmt: skip


def kind(start: bytes) -> str | None:
    """Kind of a file that is not a TFRecord file, from its first bytes, with advice; None if unknown."""
    if not start:
        return "empty"
    for magic, words in _STARTS:
        if start.startswith(magic):
            return words
    if start.startswith(_ZLIB):
        return "compressed with zlib: write the shard without compression"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if not start.strip(b"\0"):
        return "a file that starts with zeros, as after an interrupted copy: copy the file again"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for form, words in _TEXTS:
        if form.match(text) and _is_text(text):
            return words
    return "text: move it elsewhere" if _is_text(text) else None


def start(file: Path) -> bytes:
    """The first bytes of a file, for `kind`."""
    return files.read(file, _HEAD)


def _is_text(content: bytes) -> bool:
    try:
        decoded = content[:-3].decode("utf-8") if len(content) >= _HEAD - 3 else content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        decoded = content[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter in "\t\r\n\f" for letter in decoded)


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise system_error(error, folder) or data_error(
            f"{printable(folder)} cannot be listed: {error.strerror}"
        ) from None


def _is_folder(path: Path, split: str) -> bool:
    """Whether this is a folder without a shard name, such as `train` of an image folder dataset."""
    return not _NUMBERED.fullmatch(path.name, len(split)) and path.is_dir()


def _named(name: str, split: str) -> bool:
    return _NAMED.fullmatch(name, len(split)) is not None


def _names(names: Sequence[str]) -> str:
    return named([printable(name) for name in names], len(names))


def _problem(file: Path, *, incomplete: bool) -> str | None:
    if why := files.problem(file):
        return why if why.startswith("cannot") else f"is {why}"
    return "is empty (0 bytes)" if not incomplete and not file.stat().st_size else None


def _check_division(folder: Path, split: str, numbered: dict[str, re.Match[str]], *, incomplete: bool) -> None:
    divisions: dict[tuple[str, str], list[str]] = {}
    for name, match in numbered.items():
        divisions.setdefault((match["count"], match["suffix"] or ""), []).append(name)
    if len(divisions) > 1:
        raise data_error(
            f"{printable(folder)} contains {len(divisions)} different sets of {split} shards: "
            + named([f"{len(names):,} like {names[0]}" for names in divisions.values()], len(divisions))
            + ": keep one set"
        )
    (count_text, suffix), names = next(iter(divisions.items()))
    count, found = int(count_text), {int(match["number"]) for match in numbered.values()}
    if len(found) < len(numbered):
        raise data_error(
            f"{printable(folder)} contains {split} shards with the same number: {_names(names)}: keep one of each"
        )
    first = 1 if 0 not in found and count in found else 0  # some datasets count from 1
    beyond = [name for name, match in numbered.items() if not first <= int(match["number"]) < first + count]
    if beyond:
        raise data_error(
            f"{_names(beyond)} in {printable(folder)}: the number is out of range for {counted(count, 'shard')}: "
            "delete the file, or re-create the dataset"
        )
    if count > _MOST_SHARDS:
        raise data_error(
            f"{printable(folder)}/{names[0]}: {count:,} shards exceed the limit of {_MOST_SHARDS:,}: re-create the "
            "dataset with fewer shards"
        )
    if incomplete or len(found) == count:
        return
    missing = [number for number in range(first, first + count) if number not in found]
    digits = min(len(match["number"]) for match in numbered.values())
    examples = [f"{split}-{number:0{digits}d}-of-{count_text}{suffix}" for number in missing[:NAMED]]
    raise data_error(
        f"{named(examples, len(missing))} {'is' if len(missing) == 1 else 'are'} missing (found {len(found):,} of "
        f"{count:,} {split} shards in {printable(folder)}): copy the missing shards, re-create the dataset, or set "
        "data.incompleteShards to allow to train on the subset"
    )
