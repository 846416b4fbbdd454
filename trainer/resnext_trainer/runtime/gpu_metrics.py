"""Utilization and memory of the GPU of this rank, read through NVML (package nvidia-ml-py) at each scrape."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class GpuMetrics(Collector):
    """Collects the metrics of one GPU; none while NVML does not respond."""

    def __init__(self, rank: str, nvml: Any, device: int) -> None:
        """nvml: the initialized module pynvml. device: index of the GPU among those of this pod."""
        self._rank, self._nvml = rank, nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(device)

    def collect(self) -> Iterator[Metric]:
        """The metrics that this GPU provides."""
        busy = GaugeMetricFamily(
            "resnext_trainer_gpu_utilization_ratio",
            "Fraction of the last sample period in which a kernel ran on the GPU.",
            labels=["rank"],
        )
        used = GaugeMetricFamily("resnext_trainer_gpu_memory_used_bytes", "Used memory of the GPU.", labels=["rank"])
        total = GaugeMetricFamily("resnext_trainer_gpu_memory_bytes", "Memory of the GPU.", labels=["rank"])
        try:
            busy.add_metric([self._rank], self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError:
            return
        used.add_metric([self._rank], memory.used)
        total.add_metric([self._rank], memory.total)
        yield from (busy, used, total)


def open_gpu(rank: str, device: int) -> GpuMetrics | None:
    """The collector of a GPU; None without nvidia-ml-py or a driver."""
    nvml = import_nvml()
    if nvml is None:
        return None
    try:
        nvml.nvmlInit()
        return GpuMetrics(rank, nvml, device)
    except nvml.NVMLError:
        return None


def import_nvml() -> Any:
    """The module of nvidia-ml-py; None if it is not installed, as in the image for CPUs."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml
