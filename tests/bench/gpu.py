"""The trainer on NVIDIA GPUs, unattended: each precision with and without XLA, batch sizes, pipelines, several GPUs,
against timm's network with AMP, channels_last and torch.compile on the same card.

    python tests/bench/gpu.py --folder DIR [--torch PYTHON] [--data DIR] [--minutes M]
    python tests/bench/gpu.py --folder DIR --dry-run [--torch PYTHON]

What matters most comes first, each measurement is on the disk as soon as it is made, and what is there already is not
measured again: so it may be cut off at any moment and started anew. What fails is noted with its last words, and the
rest goes on. --dry-run goes the whole way with a network of one block on the CPU: it shows that the way is
free, no more.
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

import pictures
from alternately import TRAIN, Command, CommandFailed, facts

from resnext_trainer.presets import BATCH_SIZE

THEIRS = Path(__file__).with_name("theirs.py")

PRECISIONS = ("fp16", "bf16", "tf32", "fp32")
"""The fastest first."""
SYNTHETIC, DALI, TFDATA = PIPELINES = ("synthetic", "dali", "tfdata")

# XLA compiles a network of 101 layers for minutes.
CELL_SECONDS = 900


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    who: str
    """ours or theirs."""
    precision: str
    compiled: bool
    """By XLA, or by torch.compile."""
    batch: int
    pipeline: str = SYNTHETIC
    gpus: int = 1


@dataclass(frozen=True)
class Setting:
    """Where the cells are measured, and on what."""

    network: str
    settings: tuple[str, ...]
    """Fields of spec.training that all cells share."""
    device: str
    timing: tuple[str, ...]
    batch: Mapping[str, int]
    size: int
    data: Path
    torch: str | None
    """The Python that has PyTorch, and timm unless rehearsing."""
    gpus: int
    timm: bool = True


def cells(setting: Setting) -> Iterator[Cell]:
    """All of them, what matters most first."""
    preset = [
        Cell("ours", precision, compiled, setting.batch[precision])
        for compiled, precision in itertools.product((True, False), PRECISIONS)
    ]
    of_theirs = [replace(cell, who="theirs") for cell in preset if cell.compiled and setting.torch]
    yield from (cell for pair in itertools.zip_longest(preset[: len(PRECISIONS)], of_theirs) for cell in pair if cell)
    yield from preset[len(PRECISIONS) :]
    for gpus in (each for each in (2, 4, 8, 16) if each <= setting.gpus):
        yield from (replace(preset[0], gpus=gpus, pipeline=pipeline) for pipeline in (SYNTHETIC, DALI))
    yield from (replace(cell, pipeline=pipeline) for cell in preset for pipeline in (DALI, TFDATA))
    for change in (0.5, 2):
        yield from (replace(cell, batch=int(cell.batch * change)) for cell in [*preset, *of_theirs])


def command(cell: Cell, setting: Setting) -> Command:
    """What measures a cell and prints JSON."""
    if cell.who == "theirs":
        return [
            *[str(setting.torch), THEIRS, "step", setting.network, *setting.timing, "--size", str(setting.size)],
            *["--batch", str(cell.batch), "--precision", cell.precision],
            *["--device", "cuda" if setting.device == "gpu" else "cpu"],
            *(["--compile"] if cell.compiled and setting.device == "gpu" else []),
            *(["--timm"] if setting.timm else []),
        ]
    source = ["--synthetic"] if cell.pipeline == SYNTHETIC else []
    settings = [
        *setting.settings,
        f"batchSize={cell.batch}",
        f"precision.mode={cell.precision}",
        f"xla={str(cell.compiled).lower()}",
        f"device={setting.device}",
    ]
    if not source:
        settings += [f"data.path={setting.data}", f"data.pipeline={cell.pipeline}"]
    chosen = [word for each in settings for word in ("--set", each)]
    ours = [TRAIN, "benchmark", "training", "--json", *setting.timing, *source, *chosen]
    if cell.gpus == 1:
        return ours
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return ["mpirun", "-np", str(cell.gpus), "-bind-to", "none", *as_root, *ours]


class Record:
    """The file of what was measured: one JSON object a line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.found: dict[Cell, dict[str, Any]] = {}
        lines = file.read_text(encoding="utf-8") if file.exists() else ""
        if lines and not lines.endswith("\n"):
            # Cut off while it was written: the next one begins a line of its own.
            file.write_text(lines + "\n", encoding="utf-8")
        for line in lines.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # measured again
            self.found[Cell(**entry["cell"])] = entry["facts"]

    def has(self, cell: Cell) -> bool:
        """Whether it was measured; what failed is tried again."""
        return "imagesPerSecond" in self.found.get(cell, {})

    def add(self, cell: Cell, found: dict[str, Any]) -> None:
        self.found[cell] = found
        with self._file.open("a") as stream:
            stream.write(json.dumps({"cell": asdict(cell), "facts": found}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


Measure = Callable[..., dict[str, Any]]


def measure_all(setting: Setting, record: Record, deadline: float, measure: Measure = facts) -> None:
    """Measures until all are done or the time is over; a failure ends no more than its own cell."""
    todo = [cell for cell in cells(setting) if not record.has(cell)]
    for number, cell in enumerate(todo, 1):
        left = deadline - time.monotonic()
        if left <= 0:
            print(f"the time is over; {len(todo) - number + 1} of {len(todo)} are left", file=sys.stderr)
            return
        try:
            found = measure(command(cell, setting), timeout=min(left, CELL_SECONDS))
            said = f"{found['imagesPerSecond']:,.1f} images/s"
        except CommandFailed as error:
            found = {"error": str(error)}
            said = str(error).splitlines()[-1][:200]
        record.add(cell, found)
        print(f"{number} of {len(todo)}: {name(cell)}: {said}", file=sys.stderr, flush=True)


def name(cell: Cell) -> str:
    compiler = "XLA" if cell.who == "ours" else "torch.compile"
    kind = f"{cell.precision}{f' {compiler}' if cell.compiled else ''}"
    return f"{cell.who} {kind} batch {cell.batch} {cell.pipeline} x {cell.gpus}"


def ratios(found: Mapping[Cell, Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """What is promised, as (name, value, goal); a ratio whose cells were not measured is left out."""
    speeds = {cell: facts["imagesPerSecond"] for cell, facts in found.items() if "imagesPerSecond" in facts}
    rows: list[tuple[str, float, str]] = []

    def ratio(text: str, over: Cell, under: Cell, goal: str = "", *, share: float = 1) -> None:
        if over in speeds and under in speeds:
            rows.append((text, speeds[over] / speeds[under] / share, goal))

    for cell in speeds:
        if cell.who != "ours":
            continue
        theirs = Cell("theirs", cell.precision, True, cell.batch)
        if cell.pipeline == SYNTHETIC and cell.gpus == 1:
            ratio(f"{name(cell)} over timm's", cell, theirs, ">= 1" if cell.compiled else "")
            if cell.compiled:
                ratio(f"{name(cell)}: over without XLA", cell, replace(cell, compiled=False))
            if cell.precision in ("fp16", "bf16"):
                exact = Cell("ours", "fp32", cell.compiled, BATCH_SIZE["fp32"])
                ratio(f"{name(cell)}: over fp32 at its preset", cell, exact, "up to 3")
        elif cell.gpus == 1:
            ratio(f"{name(cell)}: over noise", cell, replace(cell, pipeline=SYNTHETIC))
        else:
            goal = ">= 0.94" if cell.gpus == 8 else ""
            ratio(f"{name(cell)}: over linear", cell, replace(cell, gpus=1), goal, share=cell.gpus)
    return rows


def on_gpu(options: argparse.Namespace) -> Setting:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    return Setting(
        network="resnext101-32x4d",
        settings=("model.architecture=resnext101-32x4d",),
        device="gpu",
        timing=("--steps", "50", "--warm-up", "20"),
        batch=BATCH_SIZE,
        size=224,
        data=options.data or pictures.prepare(options.folder / "pictures")[0],
        torch=options.torch,
        gpus=sum(line.startswith("GPU ") for line in listed.splitlines()),
    )


def rehearsal(options: argparse.Namespace) -> Setting:
    """The same way with the smallest of networks, on the CPU: seconds a cell. tf32 fails there, as it must."""
    from resnext_trainer.data import digits

    data = options.folder / "digits"
    digits.prepare(data)
    return Setting(
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
    measured, judged = Table("cell", "images/s", "peak GiB", "on"), Table("ratio", "is", "goal")
    for cell, found in record.found.items():
        if "imagesPerSecond" in found:
            on = found["device"] if cell.who == "theirs" else ", ".join(found["hardware"]["gpus"]) or found["device"]
            memory = found.get("peakMemoryGiB")
            measured.add_row(name(cell), f"{found['imagesPerSecond']:,.1f}", f"{memory:.1f}" if memory else "", on)
        else:
            measured.add_row(name(cell), "failed", "", str(found["error"]).splitlines()[-1][:60])
    for text, value, goal in ratios(record.found):
        judged.add_row(text, f"{value:.3g}", goal)
    console.print(measured)
    console.print(judged)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for results, and for pictures that are made once")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python with torch, torchvision and timm; left out, none")
    parser.add_argument("--data", type=Path, help="TFRecords with their indexes, in place of pictures of noise")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="begin nothing after so many")
    parser.add_argument("--dry-run", action="store_true", help="a small network, on the CPU")
    options = parser.parse_args(arguments)
    if options.torch and not shutil.which(options.torch):
        parser.error(f"--torch: {options.torch} is no program")
    options.folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    setting = rehearsal(options) if options.dry_run else on_gpu(options)
    record = Record(options.folder / ("gpu-dry-run.jsonl" if options.dry_run else "gpu.jsonl"))
    measure_all(setting, record, deadline)
    show(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
