"""Processes that a test starts: their output, and ports for them."""

import random
import socket
import subprocess
from typing import IO, AnyStr

PORTS = range(20_000, 30_000)
"""Below the ports that Linux gives to outgoing connections (32768 and up), which could take one before its use."""


def output(process: subprocess.Popen[AnyStr]) -> IO[AnyStr]:
    """Standard output of a process that was started with a pipe for it."""
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
