"""Work queue of keys: deduplicated, at most one worker per key, with exponential backoff after errors."""

import asyncio
import sys
from collections import Counter, deque

from resnext_operator.api.objects import TrainingKey
from resnext_operator.domain.backoff import exponential_delay

_FIRST_DELAY, _LAST_DELAY = 0.5, 60.0


class WorkQueue:
    """A queue in which several events for one key cause one reconciliation."""

    def __init__(self, pause: float = 0.0, per_namespace: int = sys.maxsize) -> None:
        """pause: minimum seconds between two reconciliations of a key, in which its events are coalesced.

        per_namespace: maximum number of keys of a namespace that are processed at the same time.
        """
        self._pause, self._per_namespace = pause, per_namespace
        self._busy: Counter[str] = Counter()
        self._held: dict[str, deque[TrainingKey]] = {}
        self._ready: asyncio.Queue[TrainingKey] = asyncio.Queue()
        self._waiting: set[TrainingKey] = set()
        self._working: set[TrainingKey] = set()
        self._dirty: set[TrainingKey] = set()
        self._delayed: dict[TrainingKey, asyncio.TimerHandle] = {}
        self._failures: dict[TrainingKey, int] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._dirty)

    def add(self, key: TrainingKey) -> None:
        """Queue a key. If it is being processed, it is queued again afterwards."""
        if key in self._working:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: TrainingKey, seconds: float) -> None:
        """Queue a key after a delay, or at an earlier time that was already scheduled."""
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
        """Wait for the next key. Call done or add_rate_limited after processing it."""
        while self._busy[(key := await self._ready.get())[0]] >= self._per_namespace:
            self._held.setdefault(key[0], deque()).append(key)
        self._busy[key[0]] += 1
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: TrainingKey) -> None:
        """Mark a key as processed. If it was queued in the meantime, it is processed again after the pause."""
        self._failures.pop(key, None)
        self._ended(key[0])
        asyncio.get_running_loop().call_later(self._pause, self._release, key)

    def add_rate_limited(self, key: TrainingKey) -> float:
        """Queue a key again with exponential backoff; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = exponential_delay(_FIRST_DELAY, _LAST_DELAY, failures)
        self._ended(key[0])
        # Events that arrived in the meantime wait as well, so that a failing API server gets no extra requests.
        self._dirty.discard(key)
        self._release(key)
        self.add_after(key, delay)
        return delay

    def _ended(self, namespace: str) -> None:
        self._busy[namespace] -= 1
        if held := self._held.get(namespace):
            self._ready.put_nowait(held.popleft())
        else:
            self._held.pop(namespace, None)
        if not self._busy[namespace]:
            del self._busy[namespace]

    def _release(self, key: TrainingKey) -> None:
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)
