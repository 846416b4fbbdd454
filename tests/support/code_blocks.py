"""Code blocks of the documentation."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    document
    for pattern in ("*.md", "docs/*.md", "*/README.md", "hack/*/README.md", "docs/benchmarks/*.md")
    for document in ROOT.glob(pattern)
)
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Document and text of each code block of a language."""
    for path in DOCUMENTS:
        for block in _BLOCK.finditer(path.read_text()):
            if block[2] == language:
                yield str(path.relative_to(ROOT)), block[3]


def commands() -> Iterator[list[str]]:
    """The words of each command; a line that ends with a backslash continues."""
    for _, text in blocks("console"):
        lines = text.replace("\\\n", " ").splitlines()
        # In a recorded session, all lines without a prompt are output.
        recorded = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from filter(None, (shlex.split(line, comments=True) for line in recorded or lines))


def calls(program: str) -> list[list[str]]:
    """The words of each call of a program, including calls through mpirun."""
    found = [words for words in commands() if program in words and words[0] in (program, "mpirun")]
    assert found, f"no document calls {program}"
    return found


def arguments(program: str) -> list[list[str]]:
    """The arguments of each call of a program, including calls through mpirun."""
    return [words[words.index(program) + 1 :] for words in calls(program)]
