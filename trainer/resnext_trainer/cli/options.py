"""Options that several commands have, and what the commands at a terminal share."""

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
"""What `add_subparsers` returns, whose type argparse keeps to itself."""

Run = Callable[[argparse.Namespace], int]


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where it says something, and keeps each command and its text on one line."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        self._action_max_length += self._indent_increment  # argparse forgets that commands are indented

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def command(
    commands: Commands, name: str, text: str, run: Run | None = None, more: str = ""
) -> argparse.ArgumentParser:
    """A command with its line in the list of commands; `more` stands in its own help alone."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{name}: {text}." + (f" {more}" if more else ""),
        formatter_class=Help,
    )
    parser.set_defaults(run=run)
    return parser


def config_options(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--set`, which `read_config` reads."""
    parser.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="JSON or YAML of spec.training, or a whole ResNeXtTraining (default: the published recipe)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="FIELD=VALUE",
        help="override a field, e.g. data.path=/data; repeat for more",
    )


def read_config(options: argparse.Namespace) -> "Training":
    """The configuration; a mistake in it is a refusal like any other."""
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
    """A refusal is a sentence on standard error, and its verdict the exit code; so is what the system refuses."""

    def wrapped(options: argparse.Namespace) -> int:
        # TensorFlow tells at length on standard error what it was built with.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from resnext_trainer.contract import ExitStatus
        from resnext_trainer.errors import TrainingError, system_errors
        from resnext_trainer.runtime import limits

        limits.raise_open_files()
        try:
            with system_errors():
                return run(options)
        except TrainingError as refused:
            print(refused.message, file=sys.stderr)
            if not refused.collective:
                mpi.leave(refused.verdict.value)
            return refused.verdict.value
        except OSError as error:
            print(encodable(str(error)), file=sys.stderr)
            mpi.leave(ExitStatus.CRASHED.value)
            return ExitStatus.CRASHED.value

    return wrapped


CHECKPOINT_SETTINGS = "The settings are those of the checkpoint, under what --config and --set say."
"""Of the help of each command that loads a checkpoint."""


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint`, the one to load."""
    parser.add_argument(
        "--checkpoint",
        metavar="best|newest|DIR",
        help="checkpoint to load, or the directory of a checkpoint, of a run or of its runs (default: best, else "
        "newest)",
    )


def labels_option(parser: argparse.ArgumentParser) -> None:
    """`--labels`, the names of the classes."""
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names, one per line (default: those in the checkpoint, else indices)",
    )


def positive(text: str) -> int:
    """An argument that counts something; argparse turns the ValueError into its own words."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def share(text: str) -> float:
    """An argument between 0 and 1, both excluded."""
    if not 0 < (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number
