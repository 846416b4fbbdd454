"""What is not the work itself: metrics, log, checkpoints; and whether memory stays where it is."""

import sys
from pathlib import Path
from statistics import median

from benchmarks.interleave import facts
from benchmarks.results import Ratio, Result

RANK = Path(__file__).with_name("monitored_rank.py")

IMAGES, FASTEST = 1_281_167, 8_500
"""ImageNet's training images, and the images a second that are published for eight A100: an epoch of 151 s."""


def run(folder: Path) -> Result:
    """folder: on the disk whose speed counts for checkpoints."""
    noise, digits, checkpoint = (
        facts([sys.executable, RANK, *words])
        for words in (("train", folder), ("train", folder, "--digits"), ("checkpoint", folder))
    )
    epoch = IMAGES / FASTEST
    ratios = (
        Ratio(
            "metrics, log and checkpoints over the time of the steps (resnext17-8x4d, batch 32, 500 steps an epoch)",
            (noise["checkpointSeconds"] + noise["otherSeconds"]) / noise["workSeconds"],
            at_most=0.01,
        ),
        Ratio(
            "what steps wait for a checkpoint of resnext101-32x4d over an epoch of eight A100",
            median(checkpoint["waitSeconds"]) / epoch,
            at_most=0.01,
        ),
        Ratio(
            f"memory in the last of {digits['steps']:,} steps on digits over that after a quarter",
            growth(digits["memoryMiB"]),
            at_most=1.02,
        ),
    )
    return Result("overhead", ratios, {"noise": noise, "digits": digits, "checkpoint": checkpoint})


def growth(memory: list[float]) -> float:
    """The median of the last quarter over that of the second: the first one fills buffers and pools."""
    quarter = len(memory) // 4
    return median(memory[-quarter:]) / median(memory[quarter : 2 * quarter])
