"""Signals that request a stop or a profile from a running rank."""

import math
import os
import signal

STOP = signal.SIGUSR2
"""Requests a checkpoint and exit. mpirun forwards this signal; on SIGTERM it kills the ranks within a second."""

PROFILE = signal.SIGUSR1
"""Requests a profile of the next steps from rank 0. mpirun forwards this signal as well."""


GRACE = "RESNEXT_TERMINATION_GRACE_SECONDS"
"""Environment variable with the termination grace period of the pod in seconds; unset outside a cluster."""

_ENDING_SECONDS = 20.0
"""Part of the grace period reserved for the current step and the exit of all ranks."""


class Flag:
    """Like threading.Event, but without a lock: a signal may arrive while the handler of another one sets the flag."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Sets the flag."""
        self._set = True

    def clear(self) -> None:
        """Clears the flag."""
        self._set = False

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self._set


class Requests:
    """Pending requests; the trainer checks them between steps."""

    def __init__(self, grace_seconds: float = math.inf) -> None:
        self.stop, self.profile = Flag(), Flag()
        self.seconds_to_save = max(grace_seconds - _ENDING_SECONDS, grace_seconds / 2)
        """Seconds available for the last checkpoint after a stop request, before the pod is killed."""


def block() -> None:
    """Blocks the signals until `listen`; they stay blocked and pending across exec.

    Without a handler, either signal would kill the process.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {STOP, PROFILE})


def listen() -> Requests:
    """Installs the handlers and unblocks the signals, including pending ones."""
    requests = Requests(float(os.environ.get(GRACE, math.inf)))

    def request_stop(number: int, _frame: object) -> None:
        requests.stop.set()
        if number != STOP:
            signal.signal(number, signal.SIG_DFL)  # a second signal kills the process

    # mpirun sends SIGTERM when the attempt is over: keep the default action, which ends the rank immediately.
    under_mpi = "OMPI_COMM_WORLD_RANK" in os.environ
    for number in (STOP,) if under_mpi else (STOP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    signal.signal(PROFILE, lambda *_: requests.profile.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP, PROFILE})
    return requests
