"""Output and ports of processes that tests start."""

import random
import socket
import subprocess
from typing import IO, AnyStr

PORTS = range(20_000, 30_000)
"""Below Linux' ephemeral ports (32768 and up), which outgoing connections may take before a test uses them."""


def output(process: subprocess.Popen[AnyStr]) -> IO[AnyStr]:
    """Standard output of a process that was started with a pipe."""
    assert process.stdout is not None, "started without a pipe"
    return process.stdout


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    while True:
        port = random.choice(PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue  # in use
