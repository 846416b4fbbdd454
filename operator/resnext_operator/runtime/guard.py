"""Isolation of objects: an object that cannot be handled is counted and logged, and the loop continues."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

LOOPS = ("watch", "list", "observe", "progress", "metrics", "events")
"""The loops over many objects, as labels of the metric that counts skipped objects."""

_REPEAT_SECONDS = 600.0
_MAX_LOGGED = 1000


class Repeats:
    """Suppresses repeated log lines: the same line is logged at most every ten minutes."""

    def __init__(self) -> None:
        self._logged: OrderedDict[Hashable, float] = OrderedDict()

    def first(self, line: Hashable) -> bool:
        """Whether this line was not logged within the last ten minutes. If so, it counts as logged now."""
        now = time.monotonic()
        if (at := self._logged.get(line)) is not None and now - at < _REPEAT_SECONDS:
            return False
        self._logged[line] = now
        self._logged.move_to_end(line)
        while len(self._logged) > _MAX_LOGGED:
            self._logged.popitem(last=False)
        return True


class Guard:
    """Skips objects that cannot be handled."""

    def __init__(self, count: Callable[[str], None] = lambda _: None) -> None:
        """count: called with the loop's name for each object that is skipped."""
        self._count = count
        self._repeats = Repeats()

    @contextmanager
    def each(self, loop: str, about: object) -> Iterator[None]:
        """Wrap the handling of one object in a loop. `about` names the object in the log."""
        try:
            yield
        except Exception as error:
            self.skipped(loop, about, error)

    def skipped(self, loop: str, about: object, error: Exception) -> None:
        """Count and log an object that could not be handled."""
        self._count(loop)
        name = "/".join(map(str, about)) if isinstance(about, tuple) else str(about)
        if self._repeats.first((loop, name, type(error))):
            text = f"{type(error).__name__}: {error}"[:500]
            _log.warning("%s: skipped %s: %s", loop, name[:500], text)
