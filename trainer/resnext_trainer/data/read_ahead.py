"""Reads blocks of consecutive records ahead, each in one request."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from resnext_trainer.data.files import BadFile
from resnext_trainer.data.shard_files import Located, RecordSource, ShardFiles

_REQUESTS = 16
"""Number of concurrent requests. With a latency of 5 ms per request, and another 5 ms until the thread acquires the
GIL, they limit the input to about 50,000 images/s."""

_Block = Future[np.ndarray | None]


class ReadAhead(RecordSource):
    """Keeps each block from shortly before its first record is needed until all of its planned records are finished.

    A record without a block in memory, such as a replacement for a bad record, is read from its file.
    """

    def __init__(self, shards: ShardFiles, starts: np.ndarray, planned: np.ndarray, horizon: int) -> None:
        """starts: first record of each block, and the end of the last. planned: the record numbers in the order of use.
        horizon: number of planned records to read ahead.
        """
        self._shards, self._starts, self._horizon = shards, starts, horizon
        used, first_uses, uses = np.unique(self._block_of(planned), return_index=True, return_counts=True)
        by_use = np.argsort(first_uses)
        self._coming = list(zip(first_uses[by_use].tolist(), used[by_use].tolist(), strict=True))[::-1]
        """(position of the first use, block), the next one last."""
        self._remaining = dict(zip(used.tolist(), uses.tolist(), strict=True))
        self._blocks: dict[int, _Block] = {}
        self._finished = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="read-ahead")
        self._request()

    def read(self, number: int) -> bytes:
        content = self._content(number, int(self._block_of(np.array([number]))[0]))
        return self._shards.read(number) if content is None else content.tobytes()

    @contextmanager
    def located(self, numbers: np.ndarray) -> Iterator[Located]:
        contents = list(map(self._content, numbers.tolist(), self._block_of(numbers).tolist()))
        addresses = [0 if content is None else content.__array_interface__["data"][0] for content in contents]
        with self._shards.located(numbers) as files:
            yield files._replace(addresses=np.array(addresses, np.uintp))

    def finish(self, numbers: np.ndarray) -> None:
        """Releases blocks, and requests those that come next."""
        with self._lock:
            for block in self._block_of(numbers).tolist():
                self._remaining[block] -= 1
                if not self._remaining[block]:
                    self._blocks.pop(block, None)
            self._finished += len(numbers)
            self._request()

    def close(self) -> None:
        """Cancels the requests that have not started."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._blocks.clear()

    def _request(self) -> None:
        while self._coming and self._coming[-1][0] < self._finished + self._horizon:
            self._requested(self._coming.pop()[1])

    def _requested(self, block: int) -> _Block | None:
        """A block that is in memory or on its way; None if no planned record needs it any more."""
        if block not in self._blocks and self._remaining.get(block):
            self._blocks[block] = self._pool.submit(self._fetch, block)
        return self._blocks.get(block)

    def _fetch(self, block: int) -> np.ndarray | None:
        try:
            return self._shards.read_span(int(self._starts[block]), int(self._starts[block + 1]))
        except BadFile:
            return None  # reading the single record says why

    def _content(self, number: int, block: int) -> np.ndarray | None:
        """A record's bytes in memory; None if they are not, or not completely."""
        with self._lock:
            future = self._requested(block)
        if future is None or (content := future.result()) is None:
            return None
        span = self._shards.span(number, int(self._starts[block]))
        return content[span] if span.stop <= len(content) else None

    def _block_of(self, numbers: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.searchsorted(self._starts, numbers, side="right") - 1
        return found
