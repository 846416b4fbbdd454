"""The command line `resnext-train`. Commands import heavy libraries when they run, so that `--help` is fast."""

import argparse
import io
import os
import sys

from resnext_trainer.cli import (
    benchmark,
    data,
    evaluate,
    export,
    inspect_config,
    pod,
    predict,
    report,
    shell,
    train,
)
from resnext_trainer.cli.options import Help
from resnext_trainer.runtime import environment


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Escape characters in file names that the terminal's encoding cannot represent.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if arguments is None:
        _restart_as_rank()
    environment.set_tensorflow_defaults()
    given = sys.argv[1:] if arguments is None else arguments
    return shell.guarded("resnext-train", lambda: _run(given))


def _restart_as_rank() -> None:
    """Replaces this process, because some variables of a rank must be set before a process starts."""
    variables = environment.for_rank(os.environ)
    if variables != os.environ:
        os.execve(sys.executable, [sys.executable, "-m", "resnext_trainer", *sys.argv[1:]], variables)


def _run(given: list[str]) -> int:
    options = parser().parse_args(given)
    options.given = given[1:]
    code: int = options.run(options)
    return code


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnext-train",
        formatter_class=Help,
        description="Train ResNeXt image classifiers on one or many machines.",
        epilog="Exit codes: 0 completed, 1 crashed, 2 invalid configuration, 3 invalid data, 4 non-finite loss, "
        "5 wrong number of ranks, 6 worker unreachable, 7 no usable GPU, 8 rank hung, 9 no valid checkpoint, "
        "10 last checkpoint not saved, 11 checkpoint directory locked, 12 operating-system error, "
        "75 stopped after a checkpoint.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for module in (train, inspect_config, evaluate, predict, export, benchmark, report, data, pod):
        module.add(commands)
    return parser
