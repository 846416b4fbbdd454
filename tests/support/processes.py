"""Processes that a test starts: their output, and ports for them."""

import socket
import subprocess
from typing import IO, AnyStr


def output(process: subprocess.Popen[AnyStr]) -> IO[AnyStr]:
    """Standard output of a process that was started with a pipe for it."""
    assert process.stdout is not None, "started without a pipe"
    return process.stdout


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
