"""Phrases that are not idiomatic; hack/discouraged-words.txt lists single words."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDERS = ("benchmarks", "charts", "docs", "hack", "images", "manifests", "operator", "tests", "trainer")
SUFFIXES = ("*.c", "*.md", "*.py", "*.txt", "*.yaml")
PHRASES = {
    r"\balso (if|when|while|during)\b": "even if",
    r"\b(another|other) \w+ than\b": "a value other than",
    r"\bchanges? of the (chart|code|file|spec)\b": "a change to the spec",
    r"\b(in|out)side of\b": "inside, outside",
    r"\bsuch as:": "for example,",
    r"_(is|are)_no_": "is_not",
}
"""Regular expressions with their replacements."""


def test_text_has_no_discouraged_phrases() -> None:
    """No file contains one of the phrases; the message names file, line, phrase and replacement."""
    texts = [*ROOT.glob("*.md"), *(path for each in FOLDERS for end in SUFFIXES for path in (ROOT / each).rglob(end))]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: write {instead!r}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for phrase, instead in PHRASES.items()
        if (match := re.search(phrase, line))
    ]
    assert not found, "\n".join(found)
