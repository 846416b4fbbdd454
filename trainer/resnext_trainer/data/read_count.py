"""Number and size of the reads of a dataset."""

import threading
from collections.abc import Iterable


class ReadCount:
    """Counts reads of the dataset's files, including those that the page cache answers; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests, self.bytes = 0, 0

    def add(self, requests: int, size: int) -> None:
        """Adds requests of `size` bytes in total."""
        with self._lock:
            self.requests += requests
            self.bytes += size


def total(counts: Iterable[ReadCount]) -> tuple[int, int]:
    """Requests and bytes of several datasets."""
    each = [(count.requests, count.bytes) for count in counts]
    return sum(requests for requests, _ in each), sum(size for _, size in each)
