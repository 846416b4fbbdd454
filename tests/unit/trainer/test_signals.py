"""Signals sent to a rank that is still starting: they are kept, and none of them ends the rank."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnext_trainer.runtime import launcher

LISTENS = """
from resnext_trainer.runtime import signals
requests = signals.listen()
print(requests.stop.is_set(), requests.profile.is_set())
"""


def options(tmp_path):
    paths = dict.fromkeys(("config", "keys", "run_dir", "termination_log"), tmp_path)
    return launcher.Options(attempt=1, world=1, hosts=(), ssh_port=1, metrics_port=1, deadline=1, **paths)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGUSR2, "True False"), (signal.SIGUSR1, "False True")], ids=["stop", "profile"]
)
def test_signal_during_python_startup_is_kept(tmp_path, number, expected):
    """A stop or profile request that arrives while Python starts is delivered afterwards."""
    command = launcher.command(options(tmp_path))
    wrapper = command[command.index("env") : command.index(sys.executable)]
    rank = subprocess.Popen([*wrapper, sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, text=True)
    while not Path(f"/proc/{rank.pid}/cmdline").read_bytes().startswith(sys.executable.encode()):
        time.sleep(0.0005)  # mpirun forwards nothing yet
    rank.send_signal(number)
    out, _ = rank.communicate(timeout=30)
    assert (rank.returncode, out.strip()) == (0, expected)


# Sends the signal again at each line of the handler and of the functions that it calls.
AGAIN = """
import os, signal, sys
from pathlib import Path
from resnext_trainer.runtime import launcher, signals

def interrupt(frame, event, _):
    if event == "line":
        signal.raise_signal(NUMBER)
    return interrupt

def traced(function):
    def handler(*given):
        first = sys.gettrace() is None
        if first:
            sys.settrace(interrupt)
        function(*given)
        if first:
            sys.settrace(None)
    return handler
"""

RANK = """
requests = signals.listen()
signal.signal(NUMBER, traced(signal.getsignal(NUMBER)))
signal.raise_signal(NUMBER)
print(requests.stop.is_set() or requests.profile.is_set())
"""

LAUNCHER = """
attempt = launcher.Attempt(None)
signal.signal(NUMBER, traced(attempt._request_stop))
signal.raise_signal(NUMBER)
print(attempt._stop.is_set())
"""


@pytest.mark.parametrize(
    ("process", "number"),
    [(RANK, signal.SIGUSR1), (RANK, signal.SIGUSR2), (LAUNCHER, signal.SIGTERM)],
    ids=["profile", "stop", "launcher"],
)
def test_signal_repeated_within_handler_does_not_block(process, number):
    """The handler of a second signal runs in the middle of the first one, for example while it holds a lock."""
    code = AGAIN.replace("NUMBER", str(int(number))) + process.replace("NUMBER", str(int(number)))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.strip() == "True"
