"""Two ranks on two cores against one rank on one core: what the exchange of gradients costs."""

import os
import shlex
from collections.abc import Sequence

from alternately import TRAIN, Command, alternately, speed
from results import Ratio, Result

NETWORK, BATCH, STEPS, ROUNDS = "resnext101-32x4d", 8, 3, 2


def run() -> Result:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("two ranks on a core each need two cores")
    found = alternately(ROUNDS, {"one rank": alone(cores), "two ranks": together(cores)})
    efficiency = speed(found["two ranks"]) / speed(found["one rank"]) / 2
    name = f"{NETWORK} batch {BATCH}: images/s of 2 ranks on 2 cores over twice 1 rank's on 1"
    return Result("ranks", (Ratio(name, efficiency, at_least=0.9),), found)


def alone(cores: Sequence[int]) -> Command:
    return ["taskset", "-c", str(cores[0]), *benchmark()]


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
