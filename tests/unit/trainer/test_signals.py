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
