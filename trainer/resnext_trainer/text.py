"""Numbers, and file names, which may be arbitrary bytes, in messages."""

from os import PathLike


def counted(number: int, noun: str) -> str:
    """`1 record`, `2,000 records`; for nouns with a regular plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def encodable(text: str) -> str:
    r"""The text with bytes that are not UTF-8 escaped (\xe9), so that it can be printed and sent as JSON."""
    try:
        # Python represents such bytes of a file name as surrogates.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(name: str | bytes | PathLike[str]) -> str:
    r"""A file name on one line: also escapes control characters and line separators (\n, \u2028)."""
    text = encodable(name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name))
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
