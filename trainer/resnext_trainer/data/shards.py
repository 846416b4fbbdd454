"""Which files of a folder are a split's shards, and what a file is that is none.

Every file whose name begins with a split's name is counted or rejected by name. Only hidden files, folders with other
names, and indexes are skipped.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import files
from resnext_trainer.data.problem_summary import NAMED, named
from resnext_trainer.errors import TrainingError, system_error
from resnext_trainer.text import printable

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
    (b"PK\x05\x06", "an empty zip archive: fetch it again"),
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
    (re.compile(rb"(?i)<(!doctype )?html"), "an HTML page, such as an error of a download: fetch it again"),
    (re.compile(rb"<\?xml|<Error>"), "XML, such as an error of a download: fetch it again"),
    (re.compile(rb"[{\[]"), "JSON, such as an error of a download: fetch it again"),
    (re.compile(rb"\\?(MD5|SHA\d+|[0-9a-fA-F]{32,128})[ \t(]"), "a list of checksums: move it elsewhere"),
)
_HEAD = 512
"""Bytes that are looked at to recognise a file."""


def data_error(message: str, *, collective: bool = False) -> TrainingError:
    """The data's fault, in words."""
    return TrainingError(ExitStatus.INVALID_DATA, message, collective=collective)


def find(folder: Path, split: str, *, incomplete: bool = False) -> tuple[Path, ...]:
    """A split's shards by name; raises TrainingError where some are missing (unless `incomplete`), or some are no
    shards.
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
            f"{_names(strange)} in {printable(folder)}: the name begins with {split} and is no shard's{among}: "
            "delete it, move it elsewhere, or give it a shard's name"
        )
    if numbered:
        _check_division(folder, split, numbered, incomplete=incomplete)
    problems = [(name, why) for name in candidates if (why := _problem(folder / name, incomplete=incomplete))]
    if problems:
        raise data_error(
            f"in {printable(folder)}: " + named([f"{printable(name)} {why}" for name, why in problems], len(problems))
            + ": copy it again, or re-create the data set"
        )  # fmt: skip
    return tuple(folder / name for name in candidates)


def any_of(folder: Path) -> bool:
    """Whether a folder holds a file whose name begins like a shard's."""
    return any(name.startswith(SPLITS) and not (folder / name).is_dir() for name in _listed(folder))


def similar(folder: Path, split: str) -> str:
    """A hint at files whose names contain a split's, such as imagenet2012-train.tfrecord-00000-of-01024."""
    found = sorted(name for name in _listed(folder) if split in name[1:] and not name.startswith("."))
    if not found:
        return ""
    return (
        f"; found {printable(found[0])}" + (f" and {len(found) - 1:,} more" if len(found) > 1 else "")
        + f": rename or link them as {split}-00000-of-{len(found):05d} and so on"
    )  # fmt: skip


def kind(start: bytes) -> str | None:
    """What a file that is no TFRecord file is, by its first bytes, and what to do; None if that is not known."""
    if not start:
        return "empty"
    for magic, words in _STARTS:
        if start.startswith(magic):
            return words
    if start.startswith(_ZLIB):
        return "compressed with zlib: write it again without compression"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if not start.strip(b"\0"):
        return "all zeros at its start, as an interrupted copy leaves it: copy it again"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for form, words in _TEXTS:
        if form.match(text) and _is_text(text):
            return words
    return "text: move it elsewhere" if _is_text(text) else None


def start(file: Path) -> bytes:
    """As much of a file as `kind` looks at."""
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
    """Whether this is a folder of another format's, such as train itself; one with a shard's name is rejected."""
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
            f"{printable(folder)} holds {split} shards of {len(divisions)} divisions: "
            + named([f"{len(names):,} like {names[0]}" for names in divisions.values()], len(divisions))
            + ": keep one of them"
        )
    (count_text, suffix), names = next(iter(divisions.items()))
    count, found = int(count_text), {int(match["number"]) for match in numbered.values()}
    if len(found) < len(numbered):
        raise data_error(
            f"{printable(folder)} holds {split} shards with the same number: {_names(names)}: keep one of each"
        )
    first = 1 if 0 not in found and count in found else 0  # some count from 1
    beyond = [name for name, match in numbered.items() if not first <= int(match["number"]) < first + count]
    if beyond:
        raise data_error(
            f"{_names(beyond)} in {printable(folder)}: there is no such number among {count:,} shards: "
            "delete it, or re-create the data set"
        )
    if count > _MOST_SHARDS:
        raise data_error(f"{printable(folder)}/{names[0]}: {count:,} shards are more than {_MOST_SHARDS:,}")
    if incomplete or len(found) == count:
        return
    missing = [number for number in range(first, first + count) if number not in found]
    digits = min(len(match["number"]) for match in numbered.values())
    examples = [f"{split}-{number:0{digits}d}-of-{count_text}{suffix}" for number in missing[:NAMED]]
    raise data_error(
        f"{named(examples, len(missing))} {'is' if len(missing) == 1 else 'are'} missing (found {len(found):,} of "
        f"{count:,} {split} shards in {printable(folder)}): copy the missing shards, re-create the data set, or set "
        "data.incompleteShards to allow if the subset is meant"
    )
