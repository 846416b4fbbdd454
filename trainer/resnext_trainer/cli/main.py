"""The command line, `resnext-train`. Heavy libraries are imported by the commands that need them: help is instant."""

import argparse
import io
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_trainer.cli import data, model, mpi, shell
from resnext_trainer.cli.options import Help, command, config_options, read_config
from resnext_trainer.runtime import environment

if TYPE_CHECKING:
    from resnext_trainer.contract import TerminationReport
    from resnext_trainer.runtime.signals import Requests

_RUN_DIR = Path("/run/resnext")
_KEYS = Path("/etc/resnext/ssh")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold what the terminal's encoding does not: they are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    environment.set_tensorflow_defaults()
    given = sys.argv[1:] if arguments is None else arguments
    return shell.guarded("resnext-train", lambda: _run(given))


def _run(given: list[str]) -> int:
    options = _parser().parse_args(given)
    options.given = given[1:]
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnext-train",
        formatter_class=Help,
        description="Train ResNeXt image classifiers, on one machine or on many.",
        epilog="Exit codes: 0 finished, 1 crashed, 2 configuration refused, 3 data refused, 4 loss not finite, "
        "5 wrong number of ranks, 6 a worker unreachable, 7 no usable GPU, 8 a rank hung, 9 no good checkpoint, "
        "10 last checkpoint not saved, 11 checkpoint directory locked, 12 operating-system error, "
        "75 stopped after a checkpoint.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = command(commands, "train", "train on this machine, or as one rank under mpirun", _train)
    config_options(train)
    _rank_options(train)

    model.add(commands)
    data.add(commands)

    worker = command(commands, "worker", "the first process of a worker pod: sshd, and care of the ranks", _worker)
    _pod_options(worker)
    worker.add_argument("--health-port", type=int, default=9429, help="port of /readyz and /healthz")

    launch = command(commands, "launch", "start one attempt on the workers and report its verdict", _launch)
    _pod_options(launch)
    launch.add_argument(
        "--config", type=Path, required=True, help="the configuration, at the same path in every worker"
    )
    _rank_options(launch)
    launch.add_argument(
        "--host", action="append", required=True, metavar="NAME:SLOTS", help="a worker; repeat for each"
    )
    launch.add_argument("--deadline", type=float, default=300, metavar="SECONDS", help="time for all workers to answer")

    rank = command(
        commands, "rank", "what mpirun starts on a worker: becomes `train` with the pod's environment", _rank
    )
    rank.add_argument("--run-dir", type=Path, default=_RUN_DIR, help="the worker's scratch folder")
    rank.add_argument("--config", type=Path, required=True, help="the configuration")
    _rank_options(rank)
    return parser


def _rank_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--attempt", type=int, default=1, help="which launch of this training it is")
    if command.prog.split()[-1] != "launch":
        command.add_argument("--workers", type=int, help="pods that there must be; any number if left out")
    command.add_argument(
        "--world",
        type=int,
        required=command.prog.split()[-1] != "train",
        help="ranks that there must be",
    )
    command.add_argument("--metrics-port", type=int, default=9430, help="port of the first local rank's /metrics")


def _pod_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--keys", type=Path, default=_KEYS, help="folder of the ssh keys")
    command.add_argument("--ssh-port", type=int, default=2222, help="port of the workers' sshd")
    command.add_argument("--run-dir", type=Path, default=_RUN_DIR, help="scratch folder, the same in every pod")
    command.add_argument(
        "--termination-log", type=Path, default=Path("/dev/termination-log"), help="where Kubernetes looks for the end"
    )


def _train(options: argparse.Namespace) -> int:
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
    except TrainingError as refused:
        in_order = refused.collective
        blamed = mpi.rank() if mpi.under_mpirun() and not in_order else refused.rank
        report = TerminationReport(verdict=refused.verdict.name.lower(), message=refused.message, rank=blamed)
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
        # Horovod's own error, or TensorFlow's about one of Horovod's operations: the others are gone.
        mpi.leave(PEERS_LOST if "Horovod" in repr(error) else ExitStatus.CRASHED.value)
        raise
    if mpi.rank() == 0 or not in_order:
        print_report(report)
    code: int = ExitStatus[report.verdict.upper()].value
    if not in_order:
        mpi.leave(code)
    # mpirun takes any other code of a rank for a failure, and would kill those that still end in order.
    return 0 if in_order and mpi.under_mpirun() else code


def _trained(options: argparse.Namespace, requests: "Requests") -> "TerminationReport":
    config = read_config(options)
    from resnext_trainer.runtime import telemetry
    from resnext_trainer.runtime.watchdog import Watchdog

    # mpirun gives its ranks a pseudo-terminal of its own; a bar drawn on it would fill the log.
    parts = telemetry.for_rank(mpi.rank(), terminal=sys.stdout.isatty() and not mpi.under_mpirun())
    port = options.metrics_port + int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))
    try:
        parts.server.start(port)
    except OSError as error:
        parts.console.note(f"no metrics: port {port}: {error.strerror}")
    try:
        with Watchdog(parts.heartbeat, config.stall_timeout_seconds):
            from resnext_trainer.training import entrypoint

            return entrypoint.run(
                config,
                attempt=options.attempt,
                workers=options.workers,
                world=options.world,
                telemetry=parts,
                requests=requests,
            )
    finally:
        parts.console.close()


def _worker(options: argparse.Namespace) -> int:
    from resnext_trainer.runtime import worker

    return worker.run(
        keys=options.keys,
        ssh_port=options.ssh_port,
        health_port=options.health_port,
        run_dir=options.run_dir,
        termination_log=options.termination_log,
    )


def _launch(options: argparse.Namespace) -> int:
    from resnext_trainer.runtime import launcher

    try:
        hosts = tuple(launcher.Host.parse(text) for text in options.host)
    except ValueError as error:
        sys.exit(f"resnext-train launch: --host {error}")
    return launcher.run(
        launcher.Options(
            config=options.config,
            attempt=options.attempt,
            world=options.world,
            hosts=hosts,
            keys=options.keys,
            run_dir=options.run_dir,
            termination_log=options.termination_log,
            ssh_port=options.ssh_port,
            metrics_port=options.metrics_port,
            deadline=options.deadline,
        )
    )


def _rank(options: argparse.Namespace) -> int:
    from resnext_trainer.runtime import rank_exec

    arguments = ["--config", options.config, "--attempt", options.attempt, "--workers", options.workers]
    arguments += ["--world", options.world, "--metrics-port", options.metrics_port]
    rank_exec.exec_trainer(options.run_dir, [str(argument) for argument in arguments])
    return 0
