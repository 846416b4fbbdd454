"""The input pipelines alone: 500x375 JPEGs in TFRecords to batches of 224x224, on all cores.

The published recipe decodes fast and resizes without antialiasing; torchvision decodes accurately and antialiases.
"""

import sys
from pathlib import Path

from benchmarks import synthetic_jpegs
from benchmarks.interleave import TRAIN, Command, interleave, speed
from benchmarks.results import Ratio, Result

ANTIALIASED = ("data.resize.antialias=true", "data.fastDecode=false")
"""The settings of torchvision."""

PYTORCH, LIBJPEG = (Path(__file__).with_name(name) for name in ("pytorch_baseline.py", "libjpeg_baseline.py"))

BATCH, ROUNDS, STEPS, WARM_UP = 128, 3, 60, 10


def run(torch: str, folder: Path) -> Result:
    """torch: Python interpreter with torchvision. folder: directory of the generated images."""
    shards, files = synthetic_jpegs.prepare(folder)
    found = interleave(ROUNDS, commands(torch, shards, files))
    version = found["torchvision"][0]["versions"]["torchvision"]
    native, torchvision = speed(found["native"]), speed(found["torchvision"])
    loader = f"the DataLoader (torchvision {version})"
    ratios = (
        Ratio(f"images/s of the native decoder, published settings, relative to {loader}", native / torchvision, 2.5),
        Ratio("images/s of the native decoder relative to libjpeg-turbo decoding whole images",
              native / speed(found["bare"]), 0.9),
        Ratio(f"images/s of the native decoder, antialiased and accurate, relative to {loader}",
              speed(found["native, antialiased"]) / torchvision, 1.6),
        *(
            Ratio(f"images/s of {name} relative to the native decoder, same settings", speed(found[name]) / whole)
            for name, whole in (
                ("tf.data", native),
                ("tf.data, antialiased", speed(found["native, antialiased"])),
                ("dali", native),
            )
        ),
    )  # fmt: skip
    return Result("input", ratios, found)


def commands(torch: str, shards: Path, files: Path) -> dict[str, Command]:
    timing = ["--steps", str(STEPS), "--warm-up", str(WARM_UP)]

    def ours(pipeline: str, *more: str) -> Command:
        settings = [f"data.path={shards}", f"data.pipeline={pipeline}", f"batchSize={BATCH}", "device=cpu", *more]
        chosen = [word for setting in settings for word in ("--set", setting)]
        return [TRAIN, "benchmark", "input", "--json", *timing, *chosen]

    return {
        "native": ours("native"),
        "native, antialiased": ours("native", *ANTIALIASED),
        "tf.data": ours("tfdata"),
        "tf.data, antialiased": ours("tfdata", *ANTIALIASED),
        "dali": ours("dali"),
        "torchvision": [torch, PYTORCH, "input", files, "--batch", str(BATCH), *timing],
        "bare": [sys.executable, LIBJPEG, files],
    }
