"""Unattended benchmark of the trainer on NVIDIA GPUs: precisions with and without XLA, batch sizes, pipelines and
several GPUs, compared with timm's model with AMP, channels_last and torch.compile on the same GPU.

    python -m benchmarks.gpu --folder DIR [--torch PYTHON] [--data DIR] [--minutes M]
    python -m benchmarks.gpu --folder DIR --dry-run [--torch PYTHON]

The most important measurements come first. Each result is written to disk immediately, and finished measurements are
not repeated, so a run can be interrupted and resumed. A failed measurement is recorded with the end of its output, and
the run continues. --dry-run uses a model of one block on the CPU, to test the program itself.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import synthetic_jpegs
from benchmarks.interleave import TRAIN, Command, CommandFailed, facts
from resnext_trainer.config.presets import BATCH_SIZE
from resnext_trainer.data.pipelines import dali

PYTORCH = Path(__file__).with_name("pytorch_baseline.py")

PRECISIONS = ("fp16", "bf16", "tf32", "fp32")
"""In order of speed, fastest first."""
SYNTHETIC, DALI, TFDATA, NATIVE = "synthetic", "dali", "tfdata", "native"
DECODERS = (DALI, TFDATA, NATIVE)
TRANSFERS = {f"{DALI} {transfer}": transfer for transfer in dali.Transfer if transfer != dali.Transfer.DLPACK}
"""Pipelines with a transfer between DALI and TensorFlow that is not the default on GPUs."""

# XLA takes minutes to compile a model with 101 layers.
MEASUREMENT_SECONDS = 900


@dataclass(frozen=True)
class Measurement:
    """One run of the trainer or of the baseline, with its settings."""

    who: str
    """ours: this trainer; theirs: the PyTorch baseline."""
    precision: str
    compiled: bool
    """With XLA or torch.compile."""
    batch: int
    pipeline: str = SYNTHETIC
    gpus: int = 1
    what: str = "training"
    """training, or input: the pipeline alone."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """The machine and the settings that all measurements share."""

    network: str
    settings: tuple[str, ...]
    """Fields of spec.training."""
    device: str
    timing: tuple[str, ...]
    batch: Mapping[str, int]
    size: int
    data: Path
    torch: str | None
    """Python interpreter with PyTorch, and with timm except in a dry run."""
    gpus: int
    timm: bool = True


def measurements(config: BenchmarkConfig) -> Iterator[Measurement]:
    """All measurements, each once, the most important first."""
    yield from dict.fromkeys(_in_order(config))


def _in_order(config: BenchmarkConfig) -> Iterator[Measurement]:
    preset = [
        Measurement("ours", precision, compiled, config.batch[precision])
        for compiled, precision in itertools.product((True, False), PRECISIONS)
    ]
    of_theirs = [replace(measurement, who="theirs") for measurement in preset if measurement.compiled and config.torch]
    # First, so that a few minutes on a machine show what limits the fastest training: the step or the input.
    yield from [preset[0], *of_theirs[:1]]
    yield from (replace(preset[0], pipeline=pipeline, what="input") for pipeline in DECODERS)
    yield from (replace(preset[0], pipeline=pipeline) for pipeline in (*DECODERS, *TRANSFERS))
    yield from (
        measurement
        for pair in itertools.zip_longest(preset[: len(PRECISIONS)], of_theirs)
        for measurement in pair
        if measurement
    )
    yield from preset[len(PRECISIONS) :]
    for gpus in (each for each in (2, 4, 8, 16) if each <= config.gpus):
        yield from (replace(preset[0], gpus=gpus, pipeline=pipeline) for pipeline in (SYNTHETIC, DALI))
    yield from (replace(measurement, pipeline=pipeline) for measurement in preset for pipeline in DECODERS)
    for change in (0.5, 2):
        yield from (
            replace(measurement, batch=int(measurement.batch * change)) for measurement in [*preset, *of_theirs]
        )


def command(measurement: Measurement, config: BenchmarkConfig) -> Command:
    """The command that runs a measurement and prints JSON."""
    if measurement.who == "theirs":
        return [
            *[str(config.torch), str(PYTORCH), "step", config.network, *config.timing, "--size", str(config.size)],
            *["--batch", str(measurement.batch), "--precision", measurement.precision],
            *["--device", "cuda" if config.device == "gpu" else "cpu"],
            *(["--compile"] if measurement.compiled and config.device == "gpu" else []),
            *(["--timm"] if config.timm else []),
        ]
    source = ["--synthetic"] if measurement.pipeline == SYNTHETIC else []
    settings = [
        *config.settings,
        f"batchSize={measurement.batch}",
        f"precision.mode={measurement.precision}",
        f"xla={str(measurement.compiled).lower()}",
        f"device={config.device}",
    ]
    transfer = TRANSFERS.get(measurement.pipeline)
    if not source:
        settings += [f"data.path={config.data}", f"data.pipeline={DALI if transfer else measurement.pipeline}"]
    chosen = [word for each in settings for word in ("--set", each)]
    variables = ["env", f"{dali.TRANSFER}={transfer}"] if transfer else []
    ours: list[str | Path] = [*variables, TRAIN, "benchmark", measurement.what, "--json"]
    ours += [*config.timing, *source, *chosen]
    if measurement.gpus == 1:
        return ours
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return ["mpirun", "-np", str(measurement.gpus), "-bind-to", "none", *as_root, *ours]


class Record:
    """The file of results, with one JSON object per line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.found: dict[Measurement, dict[str, Any]] = {}
        lines = file.read_text(encoding="utf-8") if file.exists() else ""
        if lines and not lines.endswith("\n"):
            # The last line was truncated by an interruption; the next record starts on a new line.
            file.write_text(lines + "\n", encoding="utf-8")
        for line in lines.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # measured again
            self.found[Measurement(**entry["cell"])] = entry["facts"]

    def has(self, measurement: Measurement) -> bool:
        """Whether it was measured successfully; failed measurements are retried."""
        return "imagesPerSecond" in self.found.get(measurement, {})

    def add(self, measurement: Measurement, found: dict[str, Any]) -> None:
        self.found[measurement] = found
        with self._file.open("a") as stream:
            stream.write(json.dumps({"cell": asdict(measurement), "facts": found}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


Measure = Callable[..., dict[str, Any]]


def measure_all(config: BenchmarkConfig, record: Record, deadline: float, measure: Measure = facts) -> None:
    """Measure until all are done or the deadline passes. A failure affects only its own measurement."""
    todo = [measurement for measurement in measurements(config) if not record.has(measurement)]
    for number, measurement in enumerate(todo, 1):
        left = deadline - time.monotonic()
        if left <= 0:
            print(f"deadline reached; {len(todo) - number + 1} of {len(todo)} measurements remain", file=sys.stderr)
            return
        try:
            found = measure(command(measurement, config), timeout=min(left, MEASUREMENT_SECONDS))
            outcome = f"{found['imagesPerSecond']:,.1f} images/s"
        except CommandFailed as error:
            found = {"error": str(error)}
            outcome = str(error).splitlines()[-1][:200]
        record.add(measurement, found)
        print(f"{number} of {len(todo)}: {name(measurement)}: {outcome}", file=sys.stderr, flush=True)


def name(measurement: Measurement) -> str:
    compiler = "XLA" if measurement.who == "ours" else "torch.compile"
    kind = f"{measurement.precision}{f' {compiler}' if measurement.compiled else ''}"
    alone = " alone" if measurement.what == "input" else ""
    return f"{measurement.who} {kind} batch {measurement.batch} {measurement.pipeline}{alone} x {measurement.gpus}"


def ratios(found: Mapping[Measurement, Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """The ratios as (name, value, goal). Ratios with missing measurements are omitted."""
    speeds = {
        measurement: facts["imagesPerSecond"] for measurement, facts in found.items() if "imagesPerSecond" in facts
    }
    rows: list[tuple[str, float, str]] = []

    def ratio(text: str, over: Measurement, under: Measurement, goal: str = "", *, share: float = 1) -> None:
        if over in speeds and under in speeds:
            rows.append((text, speeds[over] / speeds[under] / share, goal))

    for measurement in speeds:
        if measurement.who != "ours":
            continue
        theirs = Measurement("theirs", measurement.precision, True, measurement.batch)
        if measurement.what == "input":
            step = replace(measurement, pipeline=SYNTHETIC, what="training")
            ratio(f"{name(measurement)}: relative to the step with synthetic data", measurement, step, ">= 1")
        elif measurement.pipeline == SYNTHETIC and measurement.gpus == 1:
            ratio(f"{name(measurement)}: relative to timm", measurement, theirs, ">= 1" if measurement.compiled else "")
            if measurement.compiled:
                ratio(f"{name(measurement)}: relative to no XLA", measurement, replace(measurement, compiled=False))
            if measurement.precision in ("fp16", "bf16"):
                exact = Measurement("ours", "fp32", measurement.compiled, BATCH_SIZE["fp32"])
                ratio(f"{name(measurement)}: relative to fp32 at its preset batch", measurement, exact, "up to 3")
        elif measurement.gpus == 1:
            ratio(
                f"{name(measurement)}: relative to synthetic data",
                measurement,
                replace(measurement, pipeline=SYNTHETIC),
            )
        else:
            goal = ">= 0.94" if measurement.gpus == 8 else ""
            ratio(
                f"{name(measurement)}: relative to linear scaling",
                measurement,
                replace(measurement, gpus=1),
                goal,
                share=measurement.gpus,
            )
    return rows


def on_gpu(options: argparse.Namespace) -> BenchmarkConfig:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    return BenchmarkConfig(
        network="resnext101-32x4d",
        settings=("model.architecture=resnext101-32x4d",),
        device="gpu",
        timing=("--steps", "50", "--warm-up", "20"),
        batch=BATCH_SIZE,
        size=224,
        data=options.data or synthetic_jpegs.prepare(options.folder / "pictures")[0],
        torch=options.torch,
        gpus=sum(line.startswith("GPU ") for line in listed.splitlines()),
    )


def rehearsal(options: argparse.Namespace) -> BenchmarkConfig:
    """A small model on the CPU, which takes seconds per measurement. tf32 fails as expected, because it needs a GPU."""
    from resnext_trainer.data.datasets import digits

    data = options.folder / "digits"
    digits.prepare(data)
    return BenchmarkConfig(
        network="resnext17-8x4d",
        settings=(
            "model.architecture=custom",
            "model.custom={blocks: [1], groups: 4, width: 4, channels: 32, stem: 8, smallImages: true}",
            "model.classes=10",
            "model.imageSize=32",
        ),
        device="cpu",
        timing=("--steps", "2", "--warm-up", "1"),
        batch=dict.fromkeys(PRECISIONS, 8),
        size=32,
        data=data,
        torch=options.torch,
        gpus=1,
        timm=False,
    )


def show(record: Record) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    measured, judged = Table("measurement", "images/s", "peak GiB", "device"), Table("ratio", "value", "goal")
    for measurement, found in record.found.items():
        if "imagesPerSecond" in found:
            on = (
                found["device"]
                if measurement.who == "theirs"
                else ", ".join(found["hardware"]["gpus"]) or found["device"]
            )
            memory = found.get("peakMemoryGiB")
            measured.add_row(
                name(measurement), f"{found['imagesPerSecond']:,.1f}", f"{memory:.1f}" if memory else "", on
            )
        else:
            measured.add_row(name(measurement), "failed", "", str(found["error"]).splitlines()[-1][:60])
    for text, value, goal in ratios(record.found):
        judged.add_row(text, f"{value:.3g}", goal)
    console.print(measured)
    console.print(judged)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="directory for results and generated images")
    parser.add_argument(
        "--torch", metavar="PYTHON", help="Python interpreter with torch, torchvision and timm (default: no baseline)"
    )
    parser.add_argument(
        "--data", type=Path, help="directory with TFRecord shards and indexes (default: generated images)"
    )
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="start no measurement after this time")
    parser.add_argument("--dry-run", action="store_true", help="use a small model on the CPU")
    options = parser.parse_args(arguments)
    if options.torch and not shutil.which(options.torch):
        parser.error(f"--torch: {options.torch} is not an executable")
    options.folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    config = rehearsal(options) if options.dry_run else on_gpu(options)
    record = Record(options.folder / ("gpu-dry-run.jsonl" if options.dry_run else "gpu.jsonl"))
    measure_all(config, record, deadline)
    show(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
