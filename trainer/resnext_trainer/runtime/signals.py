"""What a rank is asked for by a signal while it trains."""

import math
import os
import signal
import threading

STOP = signal.SIGUSR2
"""Asks a rank to save and end. mpirun forwards it; SIGTERM would have mpirun kill the ranks within a second."""

PROFILE = signal.SIGUSR1
"""Asks rank 0 to profile its next steps. mpirun forwards it too."""


GRACE = "RESNEXT_TERMINATION_GRACE_SECONDS"
"""The environment variable with the time between a pod's SIGTERM and its end; unset outside a cluster."""

_ENDING_SECONDS = 20.0
"""Of that time, what the step under way and the end of all ranks may take."""


class Requests:
    """Set when asked, and looked at between steps."""

    def __init__(self, grace_seconds: float = math.inf) -> None:
        self.stop, self.profile = threading.Event(), threading.Event()
        self.seconds_to_save = max(grace_seconds - _ENDING_SECONDS, grace_seconds / 2)
        """Time for the last save after a request to stop, before the process is killed."""


def block() -> None:
    """Lets requests wait until `listen`; a blocked signal stays blocked, and pending, across exec.

    Unblocked, and before there is a handler, either of them would end the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {STOP, PROFILE})


def listen() -> Requests:
    """From now on signals become requests; those that came before have waited for this moment."""
    requests = Requests(float(os.environ.get(GRACE, math.inf)))

    def asked_to_stop(number: int, _frame: object) -> None:
        requests.stop.set()
        if number != STOP:
            signal.signal(number, signal.SIG_DFL)  # whoever asks twice means now

    # mpirun's SIGTERM means that the attempt is over, whatever this rank thinks.
    under_mpi = "OMPI_COMM_WORLD_RANK" in os.environ
    for number in (STOP,) if under_mpi else (STOP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked_to_stop)
    signal.signal(PROFILE, lambda *_: requests.profile.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP, PROFILE})
    return requests
