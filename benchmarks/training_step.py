"""A training step (forward, backward and update) on this machine's CPU, compared with PyTorch in channels_last."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.interleave import TRAIN, Command, interleave, speed
from benchmarks.results import Ratio, Result

PYTORCH = Path(__file__).with_name("pytorch_baseline.py")


@dataclass(frozen=True)
class Case:
    """A model with batch size and precision."""

    network: str
    batch: int
    precision: str
    steps: int
    goal: float | None = None


ROUNDS = 2


def cases() -> tuple[Case, ...]:
    """fp32 with a goal, and bf16 if the CPU supports it; otherwise a bf16 step takes minutes, even in PyTorch."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    in_hardware = any("bf16" in flag for flag in flags)
    networks = (("resnext101-32x4d", 8), ("resnext50-32x4d", 16))
    exact = tuple(Case(network, batch, "fp32", 4, 1.0) for network, batch in networks)
    return exact + tuple(Case(network, batch, "bf16", 4) for network, batch in networks if in_hardware)


def run(torch: str) -> Result:
    """torch: Python interpreter with PyTorch."""
    ratios, numbers = [], {}
    for case in cases():
        found = interleave(ROUNDS, commands(case, torch))
        name = f"{case.network} batch {case.batch} {case.precision}"
        numbers[name] = found
        version = found["PyTorch"][0]["versions"]["torch"]
        ratio = speed(found["ours"]) / speed(found["PyTorch"])
        ratios.append(Ratio(f"{name}: images/s relative to PyTorch {version}", ratio, at_least=case.goal))
    return Result("step", tuple(ratios), numbers)


def commands(case: Case, torch: str) -> dict[str, Command]:
    settings = [
        f"model.architecture={case.network}",
        f"batchSize={case.batch}",
        f"precision.mode={case.precision}",
        "xla=false",
        "device=cpu",
    ]
    timing = ["--steps", str(case.steps), "--warm-up", "1"]
    ours: list[str | Path] = [TRAIN, "benchmark", "training", "--synthetic", "--json", *timing]
    for setting in settings:
        ours += ["--set", setting]
    theirs: list[str | Path] = [
        torch,
        PYTORCH,
        "step",
        case.network,
        "--batch",
        str(case.batch),
        "--precision",
        case.precision,
        *timing,
    ]
    return {"ours": ours, "PyTorch": theirs}
