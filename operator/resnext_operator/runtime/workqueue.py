"""Keys that wait to be worked on: each at most once, never by two workers at a time, again later after an error."""

import asyncio

from resnext_operator.api.objects import Key

_FIRST_DELAY, _LAST_DELAY = 0.5, 60.0


class WorkQueue:
    """An event only says that something may have changed, so ten events for one key are one piece of work."""

    def __init__(self, pause: float = 0.0) -> None:
        """pause: seconds between two pieces of work for one key, in which its events gather."""
        self._pause = pause
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    def add(self, key: Key) -> None:
        """Work on this key soon; while it is worked on, once more afterwards."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_later(self, key: Key, seconds: float) -> None:
        """Work on this key after a while, or earlier if an earlier time was already set."""
        loop = asyncio.get_running_loop()
        if planned := self._later.get(key):
            if planned.when() <= loop.time() + seconds:
                return
            planned.cancel()
        self._later[key] = loop.call_later(seconds, self._due, key)

    def _due(self, key: Key) -> None:
        del self._later[key]
        self.add(key)

    async def get(self) -> Key:
        """The next key; done or failed must follow."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """Work on this key again after the pause, if there is a reason by then."""
        self._failures.pop(key, None)
        asyncio.get_running_loop().call_later(self._pause, self._release, key)

    def failed(self, key: Key) -> float:
        """Work on this key again after a time that doubles with each failure; returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(_LAST_DELAY, _FIRST_DELAY * float(1 << min(failures, 10)))
        # What changed meanwhile waits too: an API server in trouble is not helped by more requests.
        self._again.discard(key)
        self._release(key)
        self.add_later(key, delay)
        return delay

    def _release(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
