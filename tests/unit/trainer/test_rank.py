"""Start of a rank: stale ranks of earlier attempts are killed."""

import subprocess
import sys

from resnext_trainer.runtime import rank_exec
from tests.support.processes import output


def test_kill_stale_rank_earlier_attempt_killed(tmp_path):
    """The rank of an earlier attempt on the same slot is killed."""
    program = "import time; print('up', flush=True); time.sleep(600)"
    stale = subprocess.Popen([sys.executable, "-c", program, "resnext_trainer"], stdout=subprocess.PIPE)
    output(stale).readline()
    pid_file = tmp_path / "0.pid"
    pid_file.write_text(str(stale.pid))
    rank_exec.kill_stale_rank(pid_file)
    assert stale.wait(timeout=5) == -9


def test_kill_stale_rank_other_process_not_killed(tmp_path):
    """A process that reuses the pid and is not a rank is not killed."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pid_file = tmp_path / "0.pid"
    pid_file.write_text(str(other.pid))
    rank_exec.kill_stale_rank(pid_file)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_kill_stale_rank_without_pid_file_is_noop(tmp_path):
    """The first attempt finds no pid file."""
    rank_exec.kill_stale_rank(tmp_path / "0.pid")
