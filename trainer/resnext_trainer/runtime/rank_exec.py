"""Start of a rank: loads the environment of the pod, writes its process ID, and replaces itself with the trainer."""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnext_trainer.runtime import signals
from resnext_trainer.runtime.environment import for_rank

_STALE_RANK_SECONDS = 10.0

_MPI_PREFIXES = ("OMPI_", "PMIX_", "PRTE_")


def ranks(run_dir: Path) -> Path:
    """Directory of the process ID files of a worker's ranks."""
    return run_dir / "ranks"


def environment_file(run_dir: Path) -> Path:
    """File in which the worker's main process saves the environment of the pod."""
    return run_dir / "environment.json"


def environment(of_pod: Mapping[str, str], of_ssh: Mapping[str, str]) -> dict[str, str]:
    """Variables of the ssh session, overridden by those of the pod, except for the MPI variables of this rank."""
    of_mpi = {name: value for name, value in of_ssh.items() if name.startswith(_MPI_PREFIXES)}
    return {**of_ssh, **of_pod, **of_mpi}


def kill_stale_rank(pid_file: Path) -> None:
    """Kills a rank of an earlier attempt that still occupies this slot, and waits until it has exited.

    Such a rank hangs in a collective, occupies the metrics port, and has nothing to save.
    """
    try:
        pid = int(pid_file.read_text(encoding="utf-8"))
        if b"resnext_trainer" not in Path(f"/proc/{pid}/cmdline").read_bytes() or pid == os.getpid():
            return
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _STALE_RANK_SECONDS
        # The command line of a zombie process is empty.
        while Path(f"/proc/{pid}/cmdline").read_bytes() and time.monotonic() < deadline:
            time.sleep(0.05)
    except (OSError, ValueError):
        return  # no stale rank, or it has exited


def exec_trainer(run_dir: Path, arguments: Sequence[str]) -> None:
    """Replaces this process with `resnext-train train`, because some variables must be set before Python starts."""
    signals.block()
    local_rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")
    pid_file = ranks(run_dir) / f"{local_rank}.pid"
    kill_stale_rank(pid_file)
    pid_file.write_text(str(os.getpid()), encoding="utf-8")
    of_pod = json.loads(environment_file(run_dir).read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "resnext_trainer", "train", *arguments]
    os.execve(sys.executable, command, for_rank(environment(of_pod, os.environ)))
