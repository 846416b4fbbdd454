"""Names of files, which may be any bytes, in messages."""

from os import PathLike


def encodable(text: str) -> str:
    r"""The text with bytes that are not UTF-8 escaped (\xe9), so that it can be printed and sent as JSON."""
    try:
        # Python keeps such bytes of a file's name as surrogates.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(name: str | bytes | PathLike[str]) -> str:
    r"""A file's name on one line: control characters and line separators are escaped as well (\n, \u2028)."""
    text = encodable(name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name))
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
