"""Class names: valid class folder names, and the file labels.txt, which is UTF-8 in every locale."""

import os
import unicodedata
from collections.abc import Sequence

from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import files
from resnext_trainer.errors import TrainingError
from resnext_trainer.text import printable

LABELS = "labels.txt"
"""Class names next to the shards, one per line; line 1 names label 1."""

_BYTE_ORDER_MARK = "\ufeff"
_SEPARATORS = {"Cc", "Zl", "Zp"}
"""Unicode categories: control characters, line separators and paragraph separators."""


def class_name(folder: str | os.PathLike[str]) -> str:
    """Class name of a folder; raises TrainingError for a name that labels.txt cannot represent exactly."""
    name = os.path.basename(os.fspath(folder))  # noqa: PTH119 (a name, not a path)
    try:
        # File names are bytes: decoding them as UTF-8 gives the same name in every locale.
        text = os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(folder, "is not UTF-8") from None
    for letter in text:
        if unicodedata.category(letter) in _SEPARATORS or letter == _BYTE_ORDER_MARK:
            raise _refused(folder, f"contains the character U+{ord(letter):04X}")
    return text


def _refused(folder: str | os.PathLike[str], why: str) -> TrainingError:
    return TrainingError(
        ExitStatus.INVALID_DATA, f"{printable(folder)}: the name of this class directory {why}: rename it"
    )


def text(names: Sequence[str]) -> str:
    """Content of labels.txt: one name per line."""
    return "".join(f"{name}\n" for name in names)


def read(file: str | os.PathLike[str]) -> list[str]:
    """Reads the names in a file; raises BadFile, a ValueError, if it is not UTF-8 text.

    Only a line feed ends a line. A byte order mark and carriage returns, as written on Windows, are removed.
    """
    try:
        text = files.read(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise files.BadFile(f"is not UTF-8 text ({error})") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]
