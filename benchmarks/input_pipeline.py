"""The input pipeline alone: 500x375 JPEGs in TFRecords to batches of 224x224, on all cores."""

import sys
from pathlib import Path

from benchmarks import synthetic_jpegs
from benchmarks.interleave import TRAIN, Command, interleave, speed
from benchmarks.results import Ratio, Result

PYTORCH, LIBJPEG = (Path(__file__).with_name(name) for name in ("pytorch_baseline.py", "libjpeg_baseline.py"))

BATCH, ROUNDS, STEPS, WARM_UP = 128, 3, 60, 10


def run(torch: str, folder: Path) -> Result:
    """torch: Python interpreter with torchvision. folder: directory of the generated images."""
    shards, files = synthetic_jpegs.prepare(folder)
    found = interleave(ROUNDS, commands(torch, shards, files))
    ours = speed(found["tf.data"])
    version = found["torchvision"][0]["versions"]["torchvision"]
    ratios = (
        Ratio(
            f"images/s of tf.data relative to the DataLoader (torchvision {version})",
            ours / speed(found["torchvision"]),
            2.5,
        ),
        Ratio("images/s of tf.data relative to libjpeg-turbo decoding whole images", ours / speed(found["bare"]), 0.9),
        Ratio("images/s of DALI on the CPU relative to tf.data", speed(found["dali"]) / ours),
    )
    return Result("input", ratios, found)


def commands(torch: str, shards: Path, files: Path) -> dict[str, Command]:
    timing = ["--steps", str(STEPS), "--warm-up", str(WARM_UP)]

    def ours(pipeline: str) -> Command:
        settings = [f"data.path={shards}", f"data.pipeline={pipeline}", f"batchSize={BATCH}", "device=cpu"]
        chosen = [word for setting in settings for word in ("--set", setting)]
        return [TRAIN, "benchmark", "input", "--json", *timing, *chosen]

    return {
        "tf.data": ours("tfdata"),
        "dali": ours("dali"),
        "torchvision": [torch, PYTORCH, "input", files, "--batch", str(BATCH), *timing],
        "bare": [sys.executable, LIBJPEG, files],
    }
