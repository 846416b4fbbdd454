"""Metrics of the process and of the GPU of a rank."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric

from hack.codegen.reference.metrics import ExampleGpu
from resnext_trainer.runtime import gpu_metrics
from resnext_trainer.runtime.gpu_metrics import GpuMetrics
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.process_metrics import ProcessMetrics


def values(families: Iterable[Metric]) -> dict[str, float]:
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_process_metrics_match_kernel(tmp_path: Path) -> None:
    """Covers memory, files and bytes of this process; a read adds its bytes."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1_000_000)
    before = values(ProcessMetrics("0").collect())
    with file.open("rb") as opened:
        opened.read()
        after = values(ProcessMetrics("0").collect())
    assert after["resnext_trainer_read_bytes_total"] - before["resnext_trainer_read_bytes_total"] >= 1_000_000
    assert after["resnext_trainer_open_files"] > 0
    assert 10_000_000 < after["resnext_trainer_resident_memory_bytes"] < 10_000_000_000


def test_process_metrics_open_files_are_descriptors(tmp_path: Path) -> None:
    """Of a directory like /proc/self: threads of earlier tests may close files of this process at any time."""
    (tmp_path / "fd").mkdir()
    for number in range(3):
        (tmp_path / "fd" / str(number)).touch()
    assert values(ProcessMetrics("0", tmp_path).collect()) == {"resnext_trainer_open_files": 3}


def test_process_metrics_missing_file_omits_metric(tmp_path: Path) -> None:
    """Covers a kernel without I/O accounting, and a system without /proc."""
    (tmp_path / "statm").write_text("9 5 1 1 0 1 0\n")
    assert list(values(ProcessMetrics("0", tmp_path).collect())) == ["resnext_trainer_resident_memory_bytes"]
    assert not values(ProcessMetrics("0", tmp_path / "none").collect())


def test_metrics_exposition_has_process_of_rank() -> None:
    """The series have the label `rank`."""
    assert b'resnext_trainer_open_files{rank="3"}' in Metrics(3).exposition()


def test_gpu_metrics_are_ratio_and_bytes() -> None:
    """NVML reports percent and bytes."""
    assert values(GpuMetrics("0", ExampleGpu(), 0).collect()) == {
        "resnext_trainer_gpu_utilization_ratio": 0.5,
        "resnext_trainer_gpu_memory_used_bytes": 2**30,
        "resnext_trainer_gpu_memory_bytes": 2**36,
    }


def test_gpu_metrics_failing_driver_omits_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that fell off the bus must not break the scrape of the other metrics."""

    def lost(_: object, __: object) -> None:
        raise OSError("GPU is lost")

    monkeypatch.setattr(ExampleGpu, "nvmlDeviceGetMemoryInfo", lost)
    assert not values(GpuMetrics("0", ExampleGpu(), 0).collect())


def test_watch_gpu_without_gpu_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package or a driver, a rank exports the other metrics."""
    monkeypatch.setattr(gpu_metrics, "import_nvml", lambda: None)
    metrics = Metrics(0)
    metrics.watch_gpu(0)
    assert b"gpu" not in metrics.exposition()
