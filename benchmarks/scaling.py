"""Scaling from one rank on one core to two ranks on two cores: the cost of all-reduce.

Compares the median step: one slow step of another process, such as its first one, does not change the result.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.interleave import TRAIN, Command, interleave
from benchmarks.results import Ratio, Result

NETWORK, BATCH, STEPS, ROUNDS = "resnext101-32x4d", 8, 5, 2

GOAL = 0.75
"""Two independent processes reach 0.75 (means) or 0.87 (medians) where the two cores share memory bandwidth."""


def run() -> Result:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit(f"this benchmark needs two cores; {len(cores)} available")
    found = interleave(
        ROUNDS, {"one rank": alone(cores), "one of two apart": apart(cores), "two ranks": together(cores)}
    )
    one, neighbor, two = (seconds(found[name]) for name in ("one rank", "one of two apart", "two ranks"))
    name = f"{NETWORK} batch {BATCH}: images/s of"
    ratios = (
        Ratio(f"{name} 2 ranks on 2 cores relative to twice 1 rank on 1 core", one / two, at_least=GOAL),
        Ratio(f"{name} 1 rank next to an independent one relative to 1 rank alone", one / neighbor),
        Ratio(f"{name} 2 ranks relative to 2 independent ones", neighbor / two),
    )
    return Result("ranks", ratios, found)


def seconds(rounds: Sequence[Mapping[str, Any]]) -> float:
    """Duration of a step: the median over the rounds of the median of a round."""
    return float(median(found["latencySeconds"]["p50"] for found in rounds))


def alone(cores: Sequence[int]) -> Command:
    return ["taskset", "-c", str(cores[0]), *benchmark()]


def apart(cores: Sequence[int]) -> Command:
    """Two independent ranks at the same time, which measure the cost of shared memory and caches."""
    words, longer = (shlex.join(map(str, benchmark(steps))) for steps in (STEPS, 2 * STEPS))
    first, second = cores
    return ["sh", "-c", f"taskset -c {second} {longer} >/dev/null & taskset -c {first} {words}; wait"]


def together(cores: Sequence[int]) -> Command:
    mpirun = ["mpirun", "-np", "2", "-bind-to", "none", "--oversubscribe"]
    mpirun += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    first, second = cores
    core = f"$((OMPI_COMM_WORLD_LOCAL_RANK ? {second} : {first}))"
    command = shlex.join(map(str, benchmark()))
    return [*mpirun, "sh", "-c", f"exec taskset -c {core} {command}"]


def benchmark(steps: int = STEPS) -> Command:
    settings = [f"model.architecture={NETWORK}", f"batchSize={BATCH}", "precision.mode=fp32", "xla=false", "device=cpu"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    return [TRAIN, "benchmark", "training", "--synthetic", "--json", "--steps", str(steps), "--warm-up", "2", *chosen]
