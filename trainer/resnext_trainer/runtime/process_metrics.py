"""Memory, open files and bytes read of this process, read from /proc at each scrape."""

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class ProcessMetrics(Collector):
    """Collects the metrics of this process; without /proc, none."""

    def __init__(self, rank: str, process: Path = Path("/proc/self")) -> None:
        self._rank, self._process = rank, process

    def collect(self) -> Iterator[Metric]:
        """The metrics that this system provides."""
        memory = GaugeMetricFamily(
            "resnext_trainer_resident_memory_bytes", "Resident memory of this rank.", labels=["rank"]
        )
        files = GaugeMetricFamily("resnext_trainer_open_files", "Open file descriptors of this rank.", labels=["rank"])
        read = CounterMetricFamily(
            "resnext_trainer_read_bytes",
            "Bytes that this rank has read with system calls, including those from the page cache.",
            labels=["rank"],
        )
        for family, value in ((memory, self._resident_bytes), (files, self._open_files), (read, self._read_bytes)):
            try:
                family.add_metric([self._rank], value())
            except OSError:
                continue  # No /proc, or no permission for it.
            yield family

    def _resident_bytes(self) -> int:
        pages = (self._process / "statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def _open_files(self) -> int:
        return sum(1 for _ in os.scandir(self._process / "fd"))

    def _read_bytes(self) -> int:
        lines = (self._process / "io").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(": ") for line in lines)["rchar"])
