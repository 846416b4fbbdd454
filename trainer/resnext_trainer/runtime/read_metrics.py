"""Reads of the dataset by this process, counted by the dataset itself."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class ReadMetrics(Collector):
    """Collects the number and the size of the reads at each scrape."""

    def __init__(self, rank: str) -> None:
        self._rank = rank
        self.count: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Requests since the start of the process, and their bytes."""

    def collect(self) -> Iterator[Metric]:
        """Both counters; their quotient is the mean size of a request."""
        requests, size = self.count()
        for name, text, value in (
            ("requests", "Reads of images, or of blocks of them, from data.path or data.cache by this rank.", requests),
            ("bytes", "Bytes of images, or of blocks of them, read from data.path or data.cache by this rank.", size),
        ):
            family = CounterMetricFamily(f"resnext_trainer_data_read_{name}", text, labels=["rank"])
            family.add_metric([self._rank], value)
            yield family
