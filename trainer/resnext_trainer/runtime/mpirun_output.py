"""What comes out of mpirun: each line with the rank that wrote it, each rank's last lines, and who ended first.

mpirun is asked to put a tag before what a rank writes, such as `[1,3]<stderr>:`. It puts one before every piece that it
gets, also in the middle of a line, since a pseudo-terminal hands on 2 KiB at a time: so lines are put together here.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass

TAGGED = "--tag-output"
"""Open MPI 5 calls it old, and takes it all the same."""

# Open MPI 4 writes [1,RANK]<stdout>: and 5 [NAME@1,RANK]<stdout>: with a space behind it.
_TAG = re.compile(r"\[(?:1|[^\s,\]]+(@)1),(\d+)\]<(std\w+)>:(?(1) ?)")

# How mpirun tells who ended first: by a signal in one line, with an exit code in two.
_SIGNALLED = re.compile(
    r"noticed that process rank (\d+) with PID \d+ on node \S+ exited on (signal \d+(?: \([^)]+\))?)"
)
_NAMED = re.compile(r"\s*Process name: \[.*,(\d+)\]")
_CODE = re.compile(r"\s*Exit code:\s+(\d+)")
_POD_GONE = "lost communication with a remote daemon"

PEERS_LOST = 76
"""What a rank ends with whose exchange with the others failed: it ends first, and it is the others who are gone."""

_LINES_KEPT = 12
"""Lines kept of each rank: a traceback's last frames and its sentence."""

_WIDTH = 200
"""A longer line is cut where it is kept: a termination message has 4 KiB for all of them."""


@dataclass(frozen=True)
class Line:
    """A line, and the rank that wrote it; None is mpirun itself."""

    rank: int | None
    text: str
    complains: bool = False
    """Written to the standard error."""

    def __str__(self) -> str:
        """As a log shows it: rank 0 speaks for all, and needs no name."""
        return f"rank {self.rank}: {self.text}" if self.rank else self.text


@dataclass(frozen=True)
class FirstExit:
    """The rank that ended first. The daemon beside it told mpirun, so its node was alive."""

    rank: int
    how: str
    """Such as `signal 9 (Killed)` or `exit code 1`."""


class MpirunOutput:
    """Reads what mpirun prints, line by line."""

    def __init__(self) -> None:
        self._end: FirstExit | None = None
        self._pod_gone = False
        self._named: int | None = None
        self._begun: dict[tuple[int, str], str] = defaultdict(str)
        """Lines whose end has not come yet, by rank and stream."""
        self._last: dict[int | None, deque[str]] = defaultdict(lambda: deque(maxlen=_LINES_KEPT))
        self._all: deque[str] = deque(maxlen=_LINES_KEPT)
        self._complaints: dict[int | None, str] = {}

    @property
    def end(self) -> FirstExit | None:
        """Who ended first; None where that is not known, or was the doing of a pod that is gone."""
        return None if self._pod_gone else self._end

    def read(self, raw: str) -> Iterator[Line]:
        """The lines that are whole now that mpirun has printed one more of its own; empty ones are left out."""
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
        """Counts a line among the last ones; a report among them would be no news."""
        self._last[line.rank].append(line.text[:_WIDTH])
        self._all.append(str(line)[:_WIDTH])
        if line.complains:
            self._complaints[line.rank] = line.text[:_WIDTH]

    def last(self, rank: int | None = None) -> tuple[str, ...]:
        """A rank's last lines; without a rank the last of all."""
        return tuple(self._all if rank is None else self._last[rank])

    def last_error_line(self, rank: int) -> str:
        """The last that a rank complained of, else its last line: its two streams come in no order."""
        *_, last = ("it said nothing", *self.last(rank))
        return self._complaints.get(rank, last)

    def _notice(self, text: str) -> None:
        """Who ended first, where mpirun's own words tell it."""
        if _POD_GONE in text:
            self._pod_gone = True
        elif match := _SIGNALLED.search(text):
            self._end = self._end or FirstExit(int(match[1]), match[2])
        elif match := _NAMED.fullmatch(text):
            self._named = int(match[1])
        elif (match := _CODE.fullmatch(text)) and self._named is not None and int(match[1]) != PEERS_LOST:
            self._end = self._end or FirstExit(self._named, f"exit code {match[1]}")
