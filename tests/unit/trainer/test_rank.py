"""A rank's first moment."""

import subprocess
import sys

from resnext_trainer.runtime import rank_exec


def test_a_straggler_of_an_earlier_attempt_is_ended(tmp_path):
    program = "import time; print('up', flush=True); time.sleep(600)"
    straggler = subprocess.Popen([sys.executable, "-c", program, "resnext_trainer"], stdout=subprocess.PIPE)
    straggler.stdout.readline()
    pid_file = tmp_path / "0.pid"
    pid_file.write_text(str(straggler.pid))
    rank_exec.kill_stale_rank(pid_file)
    assert straggler.wait(timeout=5) == -9


def test_a_process_that_is_no_rank_is_left_alone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pid_file = tmp_path / "0.pid"
    pid_file.write_text(str(other.pid))
    rank_exec.kill_stale_rank(pid_file)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_an_empty_slot_is_no_matter(tmp_path):
    rank_exec.kill_stale_rank(tmp_path / "0.pid")
