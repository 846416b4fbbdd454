"""Options and error handling shared by the commands."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext_trainer.cli import mpi
from resnext_trainer.text import encodable

if TYPE_CHECKING:
    from resnext_trainer.config.models import Training

Commands = Any
"""Result of `add_subparsers`; its type is private to argparse."""

Run = Callable[[argparse.Namespace], int]


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults other than None, False and [], and keeps each command and its help on one line."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        self._action_max_length += self._indent_increment  # argparse ignores the indentation of commands

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def command(
    commands: Commands, name: str, text: str, run: Run | None = None, more: str = ""
) -> argparse.ArgumentParser:
    """Adds a command. text: its line in the list of commands; more: additional text for its own help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{name}: {text}." + (f" {more}" if more else ""),
        formatter_class=Help,
    )
    parser.set_defaults(run=run)
    return parser


def config_options(parser: argparse.ArgumentParser, otherwise: str = "the published recipe") -> None:
    """Adds `--config` and `--set`, which `read_config` reads. otherwise: the configuration without a file."""
    parser.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help=f"JSON or YAML file with spec.training or a whole ResNeXtTraining (default: {otherwise})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="FIELD=VALUE",
        help="override a field, for example data.path=/data; can be repeated",
    )


def read_config(options: argparse.Namespace) -> "Training":
    """Reads the configuration; raises TrainingError if it is invalid."""
    from resnext_trainer.checkpoint import directory
    from resnext_trainer.config import loading
    from resnext_trainer.config.validation import InvalidConfig
    from resnext_trainer.contract import ExitStatus
    from resnext_trainer.errors import TrainingError

    try:
        config = loading.read(getattr(options, "config", None), options.assignments)
        return directory.located(config, os.environ)
    except InvalidConfig as error:
        raise TrainingError(ExitStatus.INVALID_CONFIGURATION, str(error)) from None


def at_a_terminal(run: Run) -> Run:
    """Decorator: prints the message of a TrainingError or OSError to standard error and returns its exit status."""

    def wrapped(options: argparse.Namespace) -> int:
        # TensorFlow logs its build options to standard error.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from resnext_trainer.contract import ExitStatus
        from resnext_trainer.errors import TrainingError, system_errors
        from resnext_trainer.runtime import limits

        limits.raise_open_files()
        try:
            with system_errors():
                return run(options)
        except TrainingError as error:
            print(error.message, file=sys.stderr)
            if not error.collective:
                mpi.leave(error.verdict.value)
            return error.verdict.value
        except OSError as error:
            print(encodable(str(error)), file=sys.stderr)
            mpi.leave(ExitStatus.CRASHED.value)
            return ExitStatus.CRASHED.value

    return wrapped


CHECKPOINT_SETTINGS = "Settings come from the checkpoint; --config and --set override them."
"""Part of the help of each command that loads a checkpoint."""


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, the checkpoint to load."""
    parser.add_argument(
        "--checkpoint",
        metavar="best|newest|DIR",
        help="checkpoint to load; DIR is a checkpoint, a run or checkpoint.path (default: best, else newest)",
    )


def labels_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--labels`, the file of class names."""
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names, one per line (default: those in the checkpoint, else indices)",
    )


def positive(text: str) -> int:
    """Argument type: an integer of at least 1. argparse reports a ValueError."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def share(text: str) -> float:
    """Argument type: a number between 0 and 1, exclusive."""
    if not 0 < (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number
