"""`resnext-train benchmark`."""

import argparse

from resnext_trainer.cli.options import Commands, at_a_terminal, command, config_options, positive, read_config


def add(commands: Commands) -> None:
    """Adds the command."""
    benchmark = command(
        commands,
        "benchmark",
        "measure the throughput of training, inference, or the input pipeline",
        _run,
        "Percentiles refer to the duration of a step, including the wait for its batch. Under mpirun, throughput is "
        "the total of all ranks.",
    )
    benchmark.add_argument("what", choices=("training", "inference", "input"), help="workload to time")
    config_options(benchmark)
    benchmark.add_argument("--synthetic", action="store_true", help="use random images")
    benchmark.add_argument("--steps", type=positive, default=100, help="timed steps")
    benchmark.add_argument("--warm-up", type=positive, default=10, metavar="STEPS", help="warm-up steps")
    benchmark.add_argument("--json", action="store_true", help="print JSON")


@at_a_terminal
def _run(options: argparse.Namespace) -> int:
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
