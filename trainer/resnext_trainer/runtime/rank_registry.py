"""Registry of the Prometheus metrics of one rank."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Value = TypeVar("Value", bound=str)


class RankRegistry(CollectorRegistry):
    """Creates metrics whose names start with `resnext_trainer_` and whose series have the label `rank`.

    Every series exists from the start, so that rates over the first minutes are correct and an absent series indicates
    a problem. A gauge is NaN until its value is known: a zero would appear in charts, and a timestamp of zero would
    fire an alert.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = str(rank)
        """Value of the label."""

    def counter(self, name: str, text: str) -> Counter:
        """A counter with one series."""
        return Counter(f"resnext_trainer_{name}", text, ["rank"], registry=self).labels(self.rank)

    def counters(self, name: str, text: str, label: str, values: Iterable[Value]) -> dict[Value, Counter]:
        """A counter with one series for each value of a label."""
        counter = Counter(f"resnext_trainer_{name}", text, ["rank", label], registry=self)
        return {value: counter.labels(self.rank, value) for value in values}

    def gauge(self, name: str, text: str) -> Gauge:
        """A gauge with one series."""
        gauge = Gauge(f"resnext_trainer_{name}", text, ["rank"], registry=self).labels(self.rank)
        gauge.set(math.nan)
        return gauge

    def gauges(self, name: str, text: str, label: str, values: Iterable[Value]) -> dict[Value, Gauge]:
        """A gauge with one series for each value of a label."""
        gauge = Gauge(f"resnext_trainer_{name}", text, ["rank", label], registry=self)
        found = {value: gauge.labels(self.rank, value) for value in values}
        for series in found.values():
            series.set(math.nan)
        return found

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        """A histogram with one series. buckets: upper bounds."""
        name = f"resnext_trainer_{name}"
        return Histogram(name, text, ["rank"], buckets=buckets, registry=self).labels(self.rank)

    def value(self, name: str, **labels: str) -> float | None:
        """Value of one series, such as `loss` or `steps_total`; None if it does not exist."""
        return self.get_sample_value(f"resnext_trainer_{name}", {"rank": self.rank, **labels})
