"""Scaling from one rank on one core to two ranks on two cores: the cost of all-reduce."""

import os
import shlex
from collections.abc import Sequence

from benchmarks.interleave import TRAIN, Command, interleave, speed
from benchmarks.results import Ratio, Result

NETWORK, BATCH, STEPS, ROUNDS = "resnext101-32x4d", 8, 3, 2


def run() -> Result:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit(f"this benchmark needs two cores; {len(cores)} available")
    found = interleave(
        ROUNDS, {"one rank": alone(cores), "one of two apart": apart(cores), "two ranks": together(cores)}
    )
    one, neighbor, two = (speed(found[name]) for name in ("one rank", "one of two apart", "two ranks"))
    name = f"{NETWORK} batch {BATCH}: images/s of"
    ratios = (
        Ratio(f"{name} 2 ranks on 2 cores relative to twice 1 rank on 1 core", two / one / 2, at_least=0.9),
        Ratio(f"{name} 1 rank next to an independent one relative to 1 rank alone", neighbor / one),
        Ratio(f"{name} 2 ranks relative to 2 independent ones", two / neighbor / 2),
    )
    return Result("ranks", ratios, found)


def alone(cores: Sequence[int]) -> Command:
    return ["taskset", "-c", str(cores[0]), *benchmark()]


def apart(cores: Sequence[int]) -> Command:
    """Two independent ranks at the same time, which measure the cost of shared memory and caches."""
    words = " ".join(shlex.quote(str(word)) for word in benchmark())
    first, second = cores
    return ["sh", "-c", f"taskset -c {second} {words} >/dev/null & taskset -c {first} {words}; wait"]


def together(cores: Sequence[int]) -> Command:
    mpirun = ["mpirun", "-np", "2", "-bind-to", "none", "--oversubscribe"]
    mpirun += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    first, second = cores
    core = f"$((OMPI_COMM_WORLD_LOCAL_RANK ? {second} : {first}))"
    command = " ".join(shlex.quote(str(word)) for word in benchmark())
    return [*mpirun, "sh", "-c", f"exec taskset -c {core} {command}"]


def benchmark() -> Command:
    settings = [f"model.architecture={NETWORK}", f"batchSize={BATCH}", "precision.mode=fp32", "xla=false", "device=cpu"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    return [TRAIN, "benchmark", "training", "--synthetic", "--json", "--steps", str(STEPS), "--warm-up", "1", *chosen]
