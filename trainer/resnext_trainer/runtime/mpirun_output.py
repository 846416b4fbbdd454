"""Parser for the tagged output of mpirun: lines by rank, the last lines of each rank, and the first rank that exited.

mpirun prefixes the output of a rank with a tag such as `[1,3]<stderr>:`. It tags every chunk that it reads, even in the
middle of a line, because a pseudo-terminal delivers 2 KiB at a time. The parser reassembles the lines.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass

TAGGED = "--tag-output"
"""Deprecated in Open MPI 5, but still accepted."""

# Open MPI 4 writes "[1,RANK]<stdout>:", version 5 writes "[NAME@1,RANK]<stdout>: " with a trailing space.
_TAG = re.compile(r"\[(?:1|[^\s,\]]+(@)1),(\d+)\]<(std\w+)>:(?(1) ?)")

# mpirun reports the first exit in one line if a signal caused it, and in two lines if the rank returned an exit code.
_SIGNALLED = re.compile(
    r"noticed that process rank (\d+) with PID \d+ on node \S+ exited on (signal \d+(?: \([^)]+\))?)"
)
_NAMED = re.compile(r"\s*Process name: \[.*,(\d+)\]")
_CODE = re.compile(r"\s*Exit code:\s+(\d+)")
_DAEMON_LOST = "lost communication with a remote daemon"

PEERS_LOST = 76
"""Exit code of a rank whose collective failed. It exits first, although another rank caused the failure."""

_LINES_KEPT = 12
"""Lines kept per rank: the last frames of a traceback and its message."""

_WIDTH = 200
"""Characters kept per line; a termination message has 4 KiB for all lines."""


@dataclass(frozen=True)
class Line:
    """A line of output and its rank; None for mpirun."""

    rank: int | None
    text: str
    is_stderr: bool = False
    """Whether the rank wrote the line to standard error."""

    def __str__(self) -> str:
        """Text of the log line, prefixed with the rank unless it is 0."""
        return f"rank {self.rank}: {self.text}" if self.rank else self.text


@dataclass(frozen=True)
class FirstExit:
    """The rank that exited first. The daemon on its node reported it to mpirun, so the node was alive."""

    rank: int
    how: str
    """Such as `signal 9 (Killed)` or `exit code 1`."""


class MpirunOutput:
    """Parses the output of mpirun line by line."""

    def __init__(self) -> None:
        self._end: FirstExit | None = None
        self._daemon_lost = False
        self._named: int | None = None
        self._begun: dict[tuple[int, str], str] = defaultdict(str)
        """Incomplete lines by rank and stream."""
        self._last: dict[int | None, deque[str]] = defaultdict(lambda: deque(maxlen=_LINES_KEPT))
        self._all: deque[str] = deque(maxlen=_LINES_KEPT)
        self._last_stderr: dict[int | None, str] = {}

    @property
    def end(self) -> FirstExit | None:
        """The first exit; None if unknown, or if mpirun lost a daemon, which ends all ranks."""
        return None if self._daemon_lost else self._end

    def read(self, raw: str) -> Iterator[Line]:
        """Processes one line of mpirun's output and yields the lines that it completes, except for empty ones."""
        tags = list(_TAG.finditer(raw))
        ends = [*(tag.start() for tag in tags[1:]), len(raw)]
        if own := raw[: tags[0].start() if tags else None].rstrip():
            self._notice(own)
            yield Line(None, own)
        for tag, end in zip(tags, ends, strict=True) if tags else ():
            self._begun[int(tag[2]), tag[3]] += raw[tag.end() : end]
        if tags and (text := self._begun.pop((rank := int(tags[-1][2]), tags[-1][3])).rstrip()):
            yield Line(rank, text, tags[-1][3] == "stderr")

    def keep(self, line: Line) -> None:
        """Adds a line to the last lines. Callers omit reports, whose content is known."""
        self._last[line.rank].append(line.text[:_WIDTH])
        self._all.append(str(line)[:_WIDTH])
        if line.is_stderr:
            self._last_stderr[line.rank] = line.text[:_WIDTH]

    def last(self, rank: int | None = None) -> tuple[str, ...]:
        """Last lines of a rank, or of all ranks if `rank` is None."""
        return tuple(self._all if rank is None else self._last[rank])

    def last_error_line(self, rank: int) -> str:
        """Last line that a rank wrote to standard error, else its last line; the streams have no common order."""
        *_, last = ("no output", *self.last(rank))
        return self._last_stderr.get(rank, last)

    def _notice(self, text: str) -> None:
        """Detects the first exit and lost daemons in mpirun's own messages."""
        if _DAEMON_LOST in text:
            self._daemon_lost = True
        elif match := _SIGNALLED.search(text):
            self._end = self._end or FirstExit(int(match[1]), match[2])
        elif match := _NAMED.fullmatch(text):
            self._named = int(match[1])
        elif (match := _CODE.fullmatch(text)) and self._named is not None and int(match[1]) != PEERS_LOST:
            self._end = self._end or FirstExit(self._named, f"exit code {match[1]}")
