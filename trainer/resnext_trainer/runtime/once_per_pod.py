"""Messages that every rank of a pod would log, logged by one of them."""

import errno
import hashlib
import os
import socket
from logging import Logger

_held: list[socket.socket] = []


def warn_once_per_pod(log: Logger, message: str) -> None:
    """Logs a warning, unless it has already been logged by a running process of this attempt in this pod."""
    if _is_first(message):
        log.warning("%s", message)


def _is_first(message: str) -> bool:
    """The first process binds a name that the others find in use. The kernel frees it when the process ends.

    Abstract socket names belong to the network namespace, which the containers of a pod share.
    """
    attempt = os.environ.get("PMIX_NAMESPACE", "")  # set by mpirun, different for each attempt
    name = hashlib.sha256(f"{attempt}\0{message}".encode("utf-8", "surrogateescape")).hexdigest()
    try:
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        holder.bind(f"\0resnext-{name}")
    except OSError as error:
        return error.errno != errno.EADDRINUSE  # log once too often rather than never
    _held.append(holder)
    return True
