"""The commands that the operator's pods run: `resnext-train worker`, `launch` and `rank`."""

import argparse
import sys
from pathlib import Path

from resnext_trainer.cli.options import Commands, command
from resnext_trainer.cli.train import rank_options

_RUN_DIR = Path("/run/resnext")
_KEYS = Path("/etc/resnext/ssh")


def add(commands: Commands) -> None:
    """Adds the commands."""
    worker = command(commands, "worker", "internal: run sshd and supervise the ranks of a worker pod", _worker)
    _pod_options(worker)
    worker.add_argument("--health-port", type=int, default=9429, help="port of /readyz and /healthz")

    launch = command(commands, "launch", "internal: run one attempt and report its exit status", _launch)
    _pod_options(launch)
    launch.add_argument(
        "--config", type=Path, required=True, help="configuration file; must have the same path in every worker"
    )
    rank_options(launch, with_workers=False, world_required=True)
    launch.add_argument(
        "--host",
        action="append",
        required=True,
        metavar="NAME:SLOTS",
        help="worker and its number of ranks; repeat for each worker",
    )
    launch.add_argument(
        "--connect-timeout", type=float, default=300, metavar="SECONDS", help="timeout for reaching all workers"
    )

    rank = command(commands, "rank", "internal: exec `train` with the pod's environment", _rank)
    rank.add_argument("--run-dir", type=Path, default=_RUN_DIR, help="scratch directory of the worker")
    rank.add_argument("--config", type=Path, required=True, help="configuration file")
    rank_options(rank, with_workers=True, world_required=True)


def _pod_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--keys", type=Path, default=_KEYS, help="directory with the SSH keys")
    command.add_argument("--ssh-port", type=int, default=2222, help="port of the workers' sshd")
    command.add_argument(
        "--run-dir", type=Path, default=_RUN_DIR, help="scratch directory; must be the same in every pod"
    )
    command.add_argument(
        "--termination-log", type=Path, default=Path("/dev/termination-log"), help="path of the termination message"
    )


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
            world=options.world_size,
            hosts=hosts,
            keys=options.keys,
            run_dir=options.run_dir,
            termination_log=options.termination_log,
            ssh_port=options.ssh_port,
            metrics_port=options.metrics_port,
            deadline=options.connect_timeout,
        )
    )


def _rank(options: argparse.Namespace) -> int:
    from resnext_trainer.runtime import rank_exec

    arguments = ["--config", options.config, "--attempt", options.attempt, "--num-workers", options.num_workers]
    arguments += ["--world-size", options.world_size, "--metrics-port", options.metrics_port]
    rank_exec.exec_trainer(options.run_dir, [str(argument) for argument in arguments])
    return 0
