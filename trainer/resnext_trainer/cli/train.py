"""`resnext-train train`: one rank of a training, or a training in one process."""

import argparse
import os
import sys
import traceback
from typing import TYPE_CHECKING

from resnext_trainer.cli import mpi, shell
from resnext_trainer.cli.options import Commands, command, config_options, read_config

if TYPE_CHECKING:
    from resnext_trainer.contract import TerminationReport
    from resnext_trainer.runtime.signals import Requests


def add(commands: Commands) -> None:
    """Adds the command."""
    train = command(commands, "train", "train locally, or as one MPI rank", _run)
    config_options(train)
    rank_options(train, with_workers=True, world_required=False)


def rank_options(parser: argparse.ArgumentParser, *, with_workers: bool, world_required: bool) -> None:
    """Adds the options that the launcher passes to a rank."""
    parser.add_argument("--attempt", type=int, default=1, help="attempt number")
    if with_workers:
        parser.add_argument("--num-workers", type=int, help="expected number of worker pods (default: any)")
    parser.add_argument("--world-size", type=int, required=world_required, help="expected number of ranks")
    parser.add_argument("--metrics-port", type=int, default=9430, help="port of the first local rank's /metrics")


def _run(options: argparse.Namespace) -> int:
    from resnext_trainer.runtime import signals

    requests = signals.listen()
    from resnext_trainer.contract import ExitStatus, TerminationReport, print_report
    from resnext_trainer.errors import TrainingError, system_errors
    from resnext_trainer.runtime import limits
    from resnext_trainer.runtime.mpirun_output import PEERS_LOST

    limits.raise_open_files()
    in_order = True
    try:
        with system_errors():
            report = _trained(options, requests)
    except TrainingError as error:
        in_order = error.collective
        rank = mpi.rank() if mpi.under_mpirun() and not in_order else error.rank
        report = TerminationReport(verdict=error.verdict.name.lower(), message=error.message, rank=rank)
    except shell.OutputLost:
        mpi.leave(ExitStatus.CRASHED.value)
        raise
    except ModuleNotFoundError as error:
        if not (sentence := shell.missing_package(error)):
            raise
        in_order = False
        report = TerminationReport(verdict=ExitStatus.CRASHED.name.lower(), message=sentence, rank=mpi.rank())
        print(f"resnext-train: {sentence}", file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        # An error of Horovod, or of TensorFlow in a Horovod operation: another rank has failed.
        mpi.leave(PEERS_LOST if "Horovod" in repr(error) else ExitStatus.CRASHED.value)
        raise
    if mpi.rank() == 0 or not in_order:
        print_report(report)
    code: int = ExitStatus[report.verdict.upper()].value
    if not in_order:
        mpi.leave(code)
    # mpirun treats any other code as a failure and kills the ranks that are still exiting.
    return 0 if in_order and mpi.under_mpirun() else code


def _trained(options: argparse.Namespace, requests: "Requests") -> "TerminationReport":
    config = read_config(options)
    from resnext_trainer.runtime import telemetry
    from resnext_trainer.runtime.watchdog import Watchdog

    # mpirun gives its ranks a pseudo-terminal; a progress bar on it would fill the log.
    parts = telemetry.for_rank(mpi.rank(), terminal=sys.stdout.isatty() and not mpi.under_mpirun())
    port = options.metrics_port + int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))
    try:
        parts.server.start(port)
    except OSError as error:
        parts.console.note(f"metrics disabled: cannot bind port {port}: {error.strerror}")
    try:
        with Watchdog(parts.heartbeat, config.stall_timeout_seconds):
            from resnext_trainer.training import entrypoint

            report = entrypoint.run(
                config,
                attempt=options.attempt,
                workers=options.num_workers,
                world=options.world_size,
                telemetry=parts,
                requests=requests,
            )
            timed = parts.timed(report.progress) if report.progress else None
            return report.model_copy(update={"progress": timed})
    finally:
        parts.console.close()
