"""The metrics of the operator and of the ranks, from their exposition."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hack.codegen.reference.tables import table
from resnext_operator.api.groupversion import KIND, RESOURCE
from resnext_operator.rendering.names import METRICS_PORT
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.metrics import Metrics as OperatorMetrics
from resnext_operator.runtime.settings import Settings
from resnext_trainer.runtime.gpu_metrics import GpuMetrics
from resnext_trainer.runtime.metrics import Metrics as RankMetrics

RUNNING: dict[str, Any] = {
    "apiVersion": RESOURCE,
    "kind": KIND,
    "metadata": {"name": "example", "namespace": "default", "uid": "uid", "resourceVersion": "1"},
    "status": {
        "phase": "Running",
        "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T00:00:00Z",
        "attempts": [{"number": 1, "startTime": "2026-01-01T00:00:00Z"}],
        "checkpoint": {"step": 1, "time": "2026-01-01T00:00:00Z", "path": "/checkpoints"},
        "progress": {
            "epoch": 0.5,
            "epochs": 1,
            "step": 1,
            "steps": 2,
            "loss": 0.5,
            "top1": 0.5,
            "bestTop1": 0.5,
            "estimatedCompletionTime": "2026-01-01T00:00:00Z",
            "imagesPerSecond": 1.0,
            "updatedTime": "2026-01-01T00:00:00Z",
        },
    },
}
"""A training that gives every metric a sample, which shows the metric's labels."""


class ExampleGpu:
    """Stands in for NVML, so that the metrics of a GPU are listed on machines without one."""

    NVMLError = OSError
    gpu, used, total = 50, 2**30, 2**36

    def nvmlDeviceGetHandleByIndex(self, _: int) -> None: ...

    def nvmlDeviceGetUtilizationRates(self, _: None) -> "ExampleGpu":
        return self

    def nvmlDeviceGetMemoryInfo(self, _: None) -> "ExampleGpu":
        return self


def page() -> str:
    """Every metric: name, type, labels and description."""
    cache = Cache()
    cache.upsert(RUNNING)
    operator = OperatorMetrics(cache, lambda: 0)
    operator.leading = True
    operator.requested("GET", "200")
    rank = RankMetrics()
    rank.info(architecture="", precision="", xla="", pipeline="", device="", world_size="")
    gpu = CollectorRegistry()
    gpu.register(GpuMetrics("0", ExampleGpu(), 0))
    return "\n".join(
        (
            "# Metrics\n",
            "## Operator\n",
            f"Port {Settings().port} of the operator's pod. Only the leader reports the series of trainings.\n",
            *_table(generate_latest(operator.registry).decode()),
            "## Ranks\n",
            f"Port {METRICS_PORT} plus the local rank in each worker pod. A gauge is NaN until its value is known.\n",
            *_table(rank.exposition().decode()),
            "## GPUs\n",
            "Exported by each rank with a GPU, if the package nvidia-ml-py is installed.\n",
            *_table(generate_latest(gpu).decode()),
        )
    )


def _table(exposition: str) -> Iterator[str]:
    families = [each for each in text_string_to_metric_families(exposition) if not each.name.endswith("_created")]
    rows = [
        (
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`",
            family.type,
            ", ".join(f"`{label}`" for label in _labels(family.samples)),
            family.documentation,
        )
        for family in families
    ]
    return table(("Metric", "Type", "Labels", "Description"), rows)


def _labels(samples: Iterable[Any]) -> list[str]:
    return sorted({label for sample in samples for label in sample.labels} - {"le"})
