"""Summary of problems: a count and a few examples per cause, in bounded memory."""

from collections.abc import Iterator

NAMED = 20
"""Maximum number of examples listed, and of causes counted separately."""

_OTHER = "other problems"


class Summary:
    """Problems by cause."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, cause: str, example: str) -> None:
        """Counts a problem; `example` contains the file or record and the problem."""
        self._add(cause, 1, [example])

    def merge(self, other: "Summary") -> None:
        """Adds the problems of another summary after these."""
        for cause, count in other._counts.items():
            self._add(cause, count, other._examples[cause])

    def lines(self) -> Iterator[str]:
        """One line per cause, followed by its examples: at most NAMED in total, at least one per cause."""
        left = NAMED - len(self._counts)
        for cause, count in self._counts.items():
            examples = self._examples[cause][: 1 + max(0, left)]
            left -= len(examples) - 1
            yield f"{count:,} x {cause}"
            yield from (f"  {example}" for example in examples)
            if count > len(examples):
                yield f"  ... and {count - len(examples):,} more"

    def _add(self, cause: str, count: int, examples: list[str]) -> None:
        if cause not in self._counts and len(self._counts) >= NAMED - 1:
            cause = _OTHER
        self._counts[cause] = self._counts.get(cause, 0) + count
        kept = self._examples.setdefault(cause, [])
        kept += examples[: NAMED - len(kept)]


def named(names: Iterator[str] | list[str], count: int) -> str:
    """At most NAMED of `count` names, separated by commas."""
    shown = [name for name, _ in zip(names, range(NAMED), strict=False)]
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return ", ".join(shown) + more
