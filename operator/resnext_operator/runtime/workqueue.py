"""Keys that wait to be worked on: each at most once, never by two workers at a time, again later after an error."""

import asyncio

from resnext_operator.api.objects import TrainingKey
from resnext_operator.domain.backoff import exponential_delay

_FIRST_DELAY, _LAST_DELAY = 0.5, 60.0


class WorkQueue:
    """An event only says that something may have changed, so ten events for one key are one piece of work."""

    def __init__(self, pause: float = 0.0) -> None:
        """pause: seconds between two pieces of work for one key, in which its events gather."""
        self._pause = pause
        self._ready: asyncio.Queue[TrainingKey] = asyncio.Queue()
        self._waiting: set[TrainingKey] = set()
        self._working: set[TrainingKey] = set()
        self._dirty: set[TrainingKey] = set()
        self._delayed: dict[TrainingKey, asyncio.TimerHandle] = {}
        self._failures: dict[TrainingKey, int] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._dirty)

    def add(self, key: TrainingKey) -> None:
        """Work on this key soon; while it is worked on, once more afterwards."""
        if key in self._working:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: TrainingKey, seconds: float) -> None:
        """Work on this key after a while, or earlier if an earlier time was already set."""
        loop = asyncio.get_running_loop()
        if planned := self._delayed.get(key):
            if planned.when() <= loop.time() + seconds:
                return
            planned.cancel()
        self._delayed[key] = loop.call_later(seconds, self._ready_now, key)

    def _ready_now(self, key: TrainingKey) -> None:
        del self._delayed[key]
        self.add(key)

    async def get(self) -> TrainingKey:
        """The next key; done or failed must follow."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: TrainingKey) -> None:
        """Work on this key again after the pause, if there is a reason by then."""
        self._failures.pop(key, None)
        asyncio.get_running_loop().call_later(self._pause, self._release, key)

    def add_rate_limited(self, key: TrainingKey) -> float:
        """Work on this key again after a time that doubles with each failure; returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = exponential_delay(_FIRST_DELAY, _LAST_DELAY, failures)
        # What changed meanwhile waits too: an API server in trouble is not helped by more requests.
        self._dirty.discard(key)
        self._release(key)
        self.add_after(key, delay)
        return delay

    def _release(self, key: TrainingKey) -> None:
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
