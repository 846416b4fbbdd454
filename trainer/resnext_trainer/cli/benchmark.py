"""`resnext-train benchmark`."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from resnext_trainer.cli import mpi
from resnext_trainer.cli.options import Commands, at_a_terminal, command, config_options, positive, read_config

if TYPE_CHECKING:
    from resnext_trainer.training.sweep import Plan

_MODES = [f"{precision}{compiler}" for precision in ("fp16", "bf16", "tf32", "fp32") for compiler in ("", "+xla")]


def add(commands: Commands) -> None:
    """Adds the command."""
    benchmark = command(
        commands,
        "benchmark",
        "measure the throughput of training, inference, or the input pipeline",
        _run,
        "Percentiles refer to the duration of a step, including the wait for its batch. Under mpirun, throughput is "
        "the total of all ranks. With --sweep, the command finds the largest batch size that fits into the memory of "
        "one device: on GPUs for fp16, tf32 and fp32, each with and without XLA; on CPUs for fp32 without XLA; or for "
        "the modes selected with --mode. It prints images/s by precision and batch size, the model FLOP utilization "
        "(MFU), and the fraction of the time for which the device waits for input. Each measurement runs in its own "
        "process.",
    )
    benchmark.add_argument("what", choices=("training", "inference", "input"), help="workload to time")
    config_options(benchmark)
    benchmark.add_argument("--synthetic", action="store_true", help="use random images")
    benchmark.add_argument("--steps", type=positive, default=100, help="timed steps")
    benchmark.add_argument("--warm-up", type=positive, default=10, metavar="STEPS", help="warm-up steps")
    benchmark.add_argument("--json", action="store_true", help="print JSON")
    sweep = benchmark.add_argument_group("options for --sweep")
    sweep.add_argument(
        "--sweep",
        action="store_true",
        help="search for the largest batch size of each mode with random images, and measure that batch size again "
        "with the dataset unless --synthetic is set",
    )
    sweep.add_argument(
        "--mode",
        choices=_MODES,
        action="append",
        default=[],
        dest="modes",
        help="precision, with +xla to compile with XLA; can be repeated (default: all but bf16 on GPUs, fp32 on CPUs)",
    )
    sweep.add_argument("--largest-batch", type=positive, default=4096, metavar="N", help="largest batch size to try")
    sweep.add_argument(
        "--minutes",
        type=positive,
        default=24 * 60,
        help="time limit; the results measured by then are printed",
    )
    sweep.add_argument(
        "--cell-minutes", type=positive, default=15, metavar="MINUTES", help="time limit of each measurement"
    )


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
    if options.sweep:
        return _sweep(options)
    if options.synthetic:
        options.assignments = [*options.assignments, "data.format=synthetic", "data.pipeline=auto"]
    config = read_config(options)
    from resnext_trainer.cli.progress_bar import progress
    from resnext_trainer.training import benchmark

    with progress("steps", options.warm_up + options.steps) as advance:
        facts = benchmark.run(config, options.what, steps=options.steps, warm_up=options.warm_up, advance=advance)
    if facts:
        benchmark.show(facts, as_json=options.json)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    """This process does not import TensorFlow, which would occupy memory of the GPU."""
    from resnext_trainer.training import sweep, sweep_cell

    plan, gpu = _plan(options)
    shared = ["--steps", str(options.steps), "--warm-up", str(options.warm_up)]
    if hasattr(options, "config"):
        shared += ["--config", str(options.config)]
    assignments = [*options.assignments, f"device={'gpu' if gpu else 'cpu'}"]
    shared += [word for each in assignments for word in ("--set", each)]
    memory = None if gpu else sweep_cell.available_memory()
    found = sweep.sweep(
        plan,
        lambda cell, seconds: sweep_cell.measure(cell, shared, seconds, memory),
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    if options.json:
        print(json.dumps(sweep.summarize(found), indent=2))
    else:
        sweep.show(found)
    return 0 if any(result.facts for result in found) else 1


def _plan(options: argparse.Namespace) -> tuple["Plan", bool]:
    """The plan of a sweep, and whether it runs on a GPU. Raises TrainingError."""
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.errors import TrainingError
    from resnext_trainer.runtime import environment
    from resnext_trainer.training import sweep

    if options.what != "training" or mpi.under_mpirun():
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            "--sweep measures the training of one rank: use `resnext-train benchmark training --sweep` without mpirun",
        )
    config = read_config(options)
    gpu = config.device == "gpu" or (config.device == "auto" and environment.has_gpus())
    modes = tuple(dict.fromkeys(options.modes)) or (sweep.GPU_MODES if gpu else sweep.CPU_MODES)
    return (
        sweep.Plan(
            modes=modes,
            first={mode: _batch_size(options, mode) for mode in modes},
            limit=options.largest_batch,
            step=sweep.GPU_STEP if gpu else sweep.CPU_STEP,
            real=not options.synthetic and config.data.format != "synthetic",
            seconds=60.0 * options.minutes,
            cell_seconds=60.0 * options.cell_minutes,
        ),
        gpu,
    )


def _batch_size(options: argparse.Namespace, mode: str) -> int:
    """The configured batch size, or the default of the precision. Raises TrainingError."""
    precision = mode.partition("+")[0]
    of_mode = argparse.Namespace(
        **vars(options) | {"assignments": [*options.assignments, f"precision.mode={precision}"]}
    )
    return read_config(of_mode).batch_size
