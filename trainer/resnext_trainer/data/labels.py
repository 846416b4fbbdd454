"""Names of classes: which ones a folder may have, and the file labels.txt, UTF-8 in every locale."""

import os
import unicodedata
from collections.abc import Sequence

from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import files
from resnext_trainer.errors import TrainingError
from resnext_trainer.text import printable

LABELS = "labels.txt"
"""The names of the classes, one a line, beside the shards; line 1 is the class that the records call 1."""

_BYTE_ORDER_MARK = "\ufeff"
_SEPARATORS = {"Cc", "Zl", "Zp"}
"""Unicode's control characters, and its separators of lines and paragraphs."""


def class_name(folder: str | os.PathLike[str]) -> str:
    """The class that a folder is named after; raises TrainingError for a name that labels.txt could not keep
    exactly.
    """
    name = os.path.basename(os.fspath(folder))  # noqa: PTH119 (a name, not a place)
    try:
        # The same in every locale: the file system holds bytes.
        text = os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(folder, "is not UTF-8") from None
    for letter in text:
        if unicodedata.category(letter) in _SEPARATORS or letter == _BYTE_ORDER_MARK:
            raise _refused(folder, f"contains the character U+{ord(letter):04X}")
    return text


def _refused(folder: str | os.PathLike[str], why: str) -> TrainingError:
    return TrainingError(
        ExitStatus.INVALID_DATA, f"{printable(folder)}: the name of this class folder {why}: rename it"
    )


def text(names: Sequence[str]) -> str:
    """The content of the file: the names, one a line."""
    return "".join(f"{name}\n" for name in names)


def read(file: str | os.PathLike[str]) -> list[str]:
    """The names in a file, lines ending with a line feed alone; raises BadFile, a ValueError, for what is no text.

    A byte order mark and carriage returns, as editors on Windows write them, are no part of a name.
    """
    try:
        text = files.read(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise files.BadFile(f"is no text in UTF-8 ({error})") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]
