"""Trains a small model on one rank for thousands of steps, and measures its memory and overhead.

    monitored_rank.py train FOLDER [--digits] [--steps N]
    monitored_rank.py checkpoint FOLDER

Prints one JSON object to standard output.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# Set before TensorFlow is imported, as by `resnext-train`.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.validation import resolve
from resnext_trainer.data import fingerprint
from resnext_trainer.data.datasets import digits
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime import distributed
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import SingleProcess
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics, Phase
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.runtime.telemetry import Telemetry, compose
from resnext_trainer.training import entrypoint

_WORK: tuple[Phase, ...] = ("data_wait", "compute", "allreduce", "optimizer", "evaluation", "compile")
_DIGITS = 1438
"""Number of training images of the digits."""
_STEPS_PER_SAMPLE = 25
_SCRAPES_EVERY = 100


class Watched(Heartbeat):
    """Heartbeat that samples the memory, and scrapes the metrics more often than Prometheus would."""

    telemetry: Telemetry
    """The telemetry that contains this heartbeat."""

    def __init__(self, first_epoch: int) -> None:
        """first_epoch: number of steps of the first epoch, which is not measured."""
        super().__init__(0)
        self._first_epoch = first_epoch
        self.memory: list[float] = []
        self.scrapes: list[float] = []
        self.began = 0.0
        """End of the first epoch, which includes compilation."""
        self.work_before, self.checkpoints_before = 0.0, 0.0
        self.watching = 0.0
        """Seconds that the measurement itself took."""
        self._count = 0
        self.telemetry = compose(Metrics(), Console(out=io.StringIO()), self)
        self.telemetry.server.start(0)

    def work(self) -> float:
        totals = self.telemetry.phases.totals()
        return sum(totals[phase] for phase in _WORK)

    def checkpoints(self) -> float:
        return self.telemetry.phases.totals()["checkpoint"]

    def step_done(self) -> None:
        super().step_done()
        self._count += 1
        started = time.perf_counter()
        if self._count == self._first_epoch + 1:
            self.began, self.work_before, self.watching = started, self.work(), 0.0
            self.checkpoints_before = self.checkpoints()
        if self._count % _STEPS_PER_SAMPLE == 0:
            self.memory.append(resident())
        if self._count % _SCRAPES_EVERY == 0:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.telemetry.server.port}/metrics") as answer:
                answer.read()
            self.scrapes.append(time.perf_counter() - started)
        self.watching += time.perf_counter() - started


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def trained(folder: Path, steps: int, *, of_digits: bool) -> dict[str, object]:
    """Train for a number of steps, on synthetic data in epochs of 500 steps, or on the digits in epochs of 179."""
    batch, epoch = (8, _DIGITS // 8) if of_digits else (32, 500)
    settings = {
        "model": {"architecture": "resnext17-8x4d", "classes": 10, "imageSize": 32},
        "batchSize": batch,
        "precision": {"mode": "fp32"},
        "xla": False,
        "device": "cpu",
        "checkpoint": {"path": str(folder / "checkpoints")},
    }
    if of_digits:
        digits.prepare(folder / "data")
        settings |= {"epochs": -(-steps // epoch), "data": {"path": str(folder / "data"), "pipeline": "tfdata"}}
    else:
        noise = {"format": "synthetic", "syntheticImages": epoch * batch}
        settings |= {"epochs": -(-steps // epoch), "data": noise}
    watched = Watched(epoch)
    report = entrypoint.run(
        resolve(settings), attempt=1, workers=None, world=None, telemetry=watched.telemetry, requests=Requests()
    )
    seconds = time.perf_counter() - watched.began - watched.watching
    work = watched.work() - watched.work_before
    checkpoints = watched.checkpoints() - watched.checkpoints_before
    made = report.progress.step if report.progress else 0
    return {
        "steps": made,
        "seconds": seconds,
        "workSeconds": work,
        "checkpointSeconds": checkpoints,
        "otherSeconds": seconds - work - checkpoints,
        "overheadMillisecondsPerStep": 1000 * (seconds - work) / (made - epoch),
        "scrapeSeconds": sum(watched.scrapes) / max(1, len(watched.scrapes)),
        "memoryMiB": [round(each, 1) for each in watched.memory],
    }


def saved(folder: Path) -> dict[str, object]:
    """Seconds to save the model of the published recipe, and seconds for which training waits."""
    config = resolve({"device": "cpu", "xla": False, "checkpoint": {"path": str(folder)}})
    communicator = SingleProcess()
    distributed.pin_device(communicator, "cpu")
    run = Resumption(config, 1, print)
    run.select()
    run.settle(fingerprint.of("synthetic", {}, config.data.synthetic_images), [None] * config.model.classes)
    parts = compose(Metrics(), Console(out=io.StringIO()), Heartbeat(0))
    state = TrainState(config, "cpu")
    manager = CheckpointManager(config, 1, communicator, state, parts.metrics, parts.console, parts.phases, run)
    seconds, waits = [], []
    for step in range(1, 5):
        started = time.perf_counter()
        manager.save(TrainingPosition(step=step))
        waits.append(time.perf_counter() - started)
        manager.wait()
        seconds.append(time.perf_counter() - started)
    size = sum(file.stat().st_size for file in run.folder.glob("step-00000004*/*"))
    return {"seconds": seconds, "waitSeconds": waits, "MiB": size / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "checkpoint"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    # A temporary directory on the disk that the caller chose.
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.what == "train":
            found = trained(Path(folder), options.steps, of_digits=options.digits)
        else:
            found = saved(Path(folder))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
