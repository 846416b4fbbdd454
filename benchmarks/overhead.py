"""Overhead of metrics, log and checkpoints, and memory growth."""

import sys
from pathlib import Path
from statistics import median

from benchmarks.interleave import facts
from benchmarks.results import Ratio, Result

RANK = Path(__file__).with_name("monitored_rank.py")

IMAGES, FASTEST = 1_281_167, 8_500
"""ImageNet's training images, and the published images/s on eight A100 GPUs: an epoch takes 151 s."""


def run(folder: Path) -> Result:
    """folder: directory on the disk for checkpoints."""
    noise, digits, checkpoint = (
        facts([sys.executable, RANK, *words])
        for words in (("train", folder), ("train", folder, "--digits"), ("checkpoint", folder))
    )
    epoch = IMAGES / FASTEST
    ratios = (
        Ratio(
            "time of metrics, log and checkpoints relative to steps (resnext17-8x4d, batch 32, 500 steps per epoch)",
            (noise["checkpointSeconds"] + noise["otherSeconds"]) / noise["workSeconds"],
            at_most=0.01,
        ),
        Ratio(
            "milliseconds of the main thread per step for metrics, log and checkpoints (the same training)",
            noise["overheadMillisecondsPerStep"],
            at_most=0.2,
        ),
        Ratio(
            "wait for a checkpoint of resnext101-32x4d relative to an epoch on eight A100",
            median(checkpoint["waitSeconds"]) / epoch,
            at_most=0.01,
        ),
        Ratio(
            f"memory in the last quarter of {digits['steps']:,} steps on digits relative to the second quarter",
            growth(digits["memoryMiB"]),
            at_most=1.02,
        ),
    )
    return Result("overhead", ratios, {"noise": noise, "digits": digits, "checkpoint": checkpoint})


def growth(memory: list[float]) -> float:
    """Median of the last quarter relative to the second one. In the first quarter, buffers and pools fill."""
    quarter = len(memory) // 4
    return median(memory[-quarter:]) / median(memory[quarter : 2 * quarter])
