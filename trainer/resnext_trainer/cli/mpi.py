"""Facts about mpirun that a command needs before it connects to the other ranks, and the exit from a failed rank."""

import os
import sys


def leave(code: int) -> None:
    """Under mpirun, exits immediately: a normal exit would wait for the other ranks, which wait for this one."""
    if under_mpirun():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def under_mpirun() -> bool:
    """Whether mpirun started this process."""
    return "OMPI_COMM_WORLD_RANK" in os.environ


def rank() -> int:
    """This process's rank; 0 without mpirun."""
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
