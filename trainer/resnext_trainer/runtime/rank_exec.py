"""The first moment of a rank: it takes the pod's environment, leaves its process id, and becomes the trainer."""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnext_trainer.runtime import signals

_STRAGGLER_SECONDS = 10.0

_OF_MPI = ("OMPI_", "PMIX_", "PRTE_")


def ranks(run_dir: Path) -> Path:
    """Where the ranks of a worker leave their process ids."""
    return run_dir / "ranks"


def environment_file(run_dir: Path) -> Path:
    """Where the worker's first process leaves the pod's environment."""
    return run_dir / "environment.json"


def environment(of_pod: Mapping[str, str], of_ssh: Mapping[str, str]) -> dict[str, str]:
    """The pod's variables over those of the ssh session, but for what mpirun told this rank."""
    of_mpi = {name: value for name, value in of_ssh.items() if name.startswith(_OF_MPI)}
    return {**of_ssh, **of_pod, **of_mpi}


def kill_stale_rank(pid_file: Path) -> None:
    """Kills the rank that an earlier attempt left in this slot, and waits until it is gone.

    It hangs in an exchange with ranks that are no more, holds the metrics' port, and has nothing to save.
    """
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        if b"resnext_trainer" not in Path(f"/proc/{pid}/cmdline").read_bytes() or pid == os.getpid():
            return
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _STRAGGLER_SECONDS
        # A dead process that nobody waited for yet has no command line.
        while Path(f"/proc/{pid}/cmdline").read_bytes() and time.monotonic() < deadline:
            time.sleep(0.05)
    except (OSError, ValueError):
        return  # None was left, or it is gone.


def exec_trainer(run_dir: Path, arguments: Sequence[str]) -> None:
    """Replaces this process by `resnext-train train`, with the variables that must be set before Python starts."""
    signals.block()
    local_rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")
    pid_file = ranks(run_dir) / f"{local_rank}.pid"
    kill_stale_rank(pid_file)
    pid_file.write_text(str(os.getpid()), encoding="utf-8")
    of_pod = json.loads(environment_file(run_dir).read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "resnext_trainer", "train", *arguments]
    os.execve(sys.executable, command, environment(of_pod, os.environ))
