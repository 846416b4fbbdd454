"""Benchmarks of training, inference or the input pipeline; times each step after a warm-up."""

import importlib.metadata
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.input_pipeline import Batch, InputPipeline, open_for_ranks
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.cost import flops
from resnext_trainer.model.peak_flops import peak_flops, utilization
from resnext_trainer.model.resnext import build_for_device
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import PendingResult, apply_gradients, eval_step, forward_backward
from resnext_trainer.runtime import cpus, environment
from resnext_trainer.runtime.bring_up import bring_up
from resnext_trainer.runtime.distributed import Communicator

What = Literal["training", "inference", "input"]

_PERCENTILES = (50, 90, 95, 99)
_PACKAGES = ("tensorflow", "tensorflow-cpu", "horovod", "nvidia-dali-cuda120", "numpy")


@dataclass(frozen=True)
class Timing:
    """Measurements of one rank."""

    steps: np.ndarray
    """Duration of each step in seconds, including the wait for its batch."""
    waits: np.ndarray
    """Wait for the batch in each step, in seconds."""
    warm_up: float
    """Duration of all warm-up steps in seconds, which compile the graph and fill buffers."""


def run(
    config: Training, what: What, *, steps: int, warm_up: int, advance: Callable[[int], None]
) -> dict[str, Any] | None:
    """Runs a benchmark and returns the result on rank 0, None on the others.

    Raises TrainingError if the data or the device is unusable, or if there are fewer images than one step takes.
    """
    with bring_up(
        lambda: config, lambda communicator, config: (config, open_for_ranks(communicator, config))
    ) as runtime:
        config, communicator, source = runtime.config, runtime.communicator, runtime.opened
        if source.training_images < config.batch_size * communicator.size:
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                f"one step takes {config.batch_size * communicator.size} images, but there are only "
                f"{source.training_images}: lower batchSize",
                collective=True,
            )
        try:
            work = _work(config, communicator, what)
            timing = _time_steps(_repeat(source), work, steps, warm_up, advance)
        except tf.errors.ResourceExhaustedError as error:
            detail, _, _ = error.message.partition("\n")
            raise TrainingError(
                ExitStatus.SYSTEM_ERROR,
                f"out of memory with batchSize {config.batch_size}: lower batchSize ({detail})",
            ) from None
        timings = communicator.gather(timing)
        return result(config, what, source, timings) if communicator.rank == 0 else None


def result(config: Training, what: What, source: InputPipeline, timings: list[Timing]) -> dict[str, Any]:
    """The result with versions and hardware, for JSON."""
    latency = np.concatenate([timing.steps for timing in timings])
    # Images of all ranks divided by the time of the slowest: in training, all ranks end each step together.
    images = sum(len(timing.steps) for timing in timings) * config.batch_size
    facts: dict[str, Any] = {
        "benchmark": what,
        "data": source.name if config.data.format == "synthetic" else "real",
        "imagesPerSecond": images / max(float(timing.steps.sum()) for timing in timings),
        "latencySeconds": {f"p{part}": float(np.percentile(latency, part)) for part in _PERCENTILES},
        "dataWaitShare": float(sum(timing.waits.sum() for timing in timings) / latency.sum()),
        "steps": len(timings[0].steps),
        "warmUpSeconds": max(timing.warm_up for timing in timings),
        "ranks": len(timings),
        "batchSize": config.batch_size,
        "architecture": config.model.architecture,
        "imageSize": config.model.image_size,
        "precision": config.precision.mode,
        "xla": config.xla,
        "pipeline": source.name,
        "device": config.device,
        "peakMemoryGiB": _peak_memory(config.device),
        "cpusPerRank": cpus.per_rank(),
        "environment": environment.variables_for_speed(),
        "versions": versions(),
        "hardware": hardware(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return facts | _flop_facts(config, what, facts["imagesPerSecond"] / len(timings), facts["hardware"]["gpus"])


def _flop_facts(config: Training, what: What, images_per_second: float, gpus: list[str]) -> dict[str, Any]:
    """Operations per image, and the part of the GPU's peak that they use; None if the peak is unknown.

    images_per_second: of one rank.
    """
    if what == "input":
        return {}
    per_image = getattr(flops(config.model), what)
    peak = peak_flops(gpus[0], config.precision.mode) if config.device == "gpu" and gpus else None
    return {
        "flopsPerImage": per_image,
        "modelFlopUtilization": utilization(images_per_second, per_image, peak),
    }


def show(facts: dict[str, Any], *, as_json: bool) -> None:
    """Prints the result as JSON or as a table."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        match name, value:
            case "latencySeconds", _:
                for part, seconds in value.items():
                    table.add_row(f"latency {part}", f"{seconds * 1000:,.1f} ms")
            case _, dict():
                table.add_row(name, ", ".join(f"{key} {entry}" for key, entry in value.items()))
            case _, float():
                table.add_row(name, f"{value:,.3f}")
            case _, None:
                table.add_row(name, "unknown")
            case _:
                table.add_row(name, str(value))
    Console().print(table)


def _work(config: Training, communicator: Communicator, what: What) -> Callable[[Batch], None]:
    """Returns the function to time, which processes a batch and waits for the device.

    In training, it waits for the previous step after it has started the gradients, as a training does.
    """
    if what == "input":
        return lambda _batch: None
    if what == "inference":
        network = build_for_device(config, config.device)
        return lambda batch: eval_step(network, batch[0]).numpy()
    state, mix = TrainState(config, config.device), tf.ones(config.batch_size if config.mixup else 1)
    previous: PendingResult | None = None

    def train(batch: Batch) -> None:
        nonlocal previous
        gradients = forward_backward(state, *batch, mix)
        if previous:
            previous.wait()
        # Learning rate 0: the cost is the same, and weights cannot diverge on random images.
        previous = apply_gradients(state, communicator, gradients, rate=0.0)

    return train


def _peak_memory(device: str) -> float:
    """Peak memory of rank 0 in GiB: GPU memory, or resident memory on a CPU."""
    if device == "gpu":
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _time_steps(
    batches: Iterator[Batch], work: Callable[[Batch], None], steps: int, warm_up: int, advance: Callable[[int], None]
) -> Timing:
    marks, waits = [time.perf_counter()], []
    for _ in range(warm_up + steps):
        batch = next(batches)
        waits.append(time.perf_counter() - marks[-1])
        work(batch)
        marks.append(time.perf_counter())
        advance(1)
    return Timing(np.diff(marks)[warm_up:], np.array(waits[warm_up:]), marks[warm_up] - marks[0])


def _repeat(source: InputPipeline) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from source.train(epoch, 0)
        epoch += 1


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that affect speed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """CPU, cores available to this process, memory, and GPUs."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [details.get("device_name", "unknown") for details in gpus],
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
