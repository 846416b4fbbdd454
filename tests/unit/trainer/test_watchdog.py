"""Watchdog: ranks that wait for a hung rank identify it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from resnext_trainer.runtime.heartbeat import State
from resnext_trainer.runtime.watchdog import describe_stall, find_culprit
from tests.support.processes import output
from tests.support.reports import report_in

RANK = """
import json, sys, time
from resnext_trainer.runtime.telemetry import for_rank
from resnext_trainer.runtime.watchdog import Watchdog

rank, phase = int(sys.argv[1]), sys.argv[2]
telemetry = for_rank(rank)
for _ in range(5):
    telemetry.heartbeat.step_done()
print(telemetry.server.start(0), flush=True)
telemetry.heartbeat.peers = json.loads(input())

def reads_a_disk_that_never_answers():
    with telemetry.phases.phase(phase):
        time.sleep(60)

with Watchdog(telemetry.heartbeat, timeout=float(sys.argv[3])):
    reads_a_disk_that_never_answers()
"""


@pytest.fixture
def started():
    ranks = []

    def start(*phases_and_timeouts):
        for number, (phase, timeout) in enumerate(phases_and_timeouts):
            command = [sys.executable, "-c", RANK, str(number), phase, str(timeout)]
            pipe = subprocess.PIPE
            ranks.append(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe))
        peers = [f"http://localhost:{output(rank).readline().strip()}/state" for rank in ranks]
        for rank in ranks:
            assert rank.stdin is not None
            rank.stdin.write(json.dumps(peers) + "\n")
            rank.stdin.flush()
        return ranks

    yield start
    for rank in ranks:
        rank.kill()
        rank.communicate()


def ended(rank):
    out, err = rank.communicate(timeout=30)
    report = report_in(out)
    return rank.returncode, report["message"], report["rank"], err


@pytest.mark.parametrize("phase", ["allreduce", "evaluation"])
def test_watchdog_stopped_rank_reported_with_last_step(started, phase):
    """The waiting rank identifies the peer that does not answer."""
    waiting, _, stopped = started(("allreduce", 1), ("allreduce", 60), (phase, 60))
    os.kill(stopped.pid, signal.SIGSTOP)
    since = time.monotonic()
    code, message, rank, stacks = ended(waiting)
    assert (code, rank) == (8, 2)
    assert time.monotonic() - since < 10
    assert "rank 0 completed no step for 1 s: rank 2 does not respond (last step 5)." in message
    assert "reads_a_disk_that_never_answers" in stacks


def test_watchdog_stuck_rank_reported_with_stack(started):
    """The waiting rank reports the phase and the stack of the stuck peer."""
    waiting, stuck = started(("allreduce", 1), ("data_wait", 60))
    code, message, rank, stacks = ended(waiting)
    assert (code, rank) == (8, 1)
    assert "rank 1 has been in data_wait for" in message
    assert "s after step 5" in message
    assert "stack trace of rank 1:" in stacks
    assert stacks.count("reads_a_disk_that_never_answers") >= 2
    assert stuck.poll() is None


@pytest.mark.parametrize(
    ("doing", "rank"),
    [
        (["allreduce", "compute", "allreduce"], 1),
        (["compute", "allreduce", None], 2),
        (["compute", "compute", "compute"], None),
        (["allreduce", "allreduce", "allreduce"], None),
    ],
)
def test_find_culprit_only_rank_not_waiting(doing, rank):
    """A rank is identified only if the others wait for it."""
    states = {number: State(number, 7, phase, 60.0) if phase else None for number, phase in enumerate(doing)}
    assert find_culprit(states) == rank


def test_describe_stall_deadlock_lists_ranks_truncated():
    """If all ranks wait for each other, the first ones are listed and the others counted."""
    states = {rank: State(rank, 7, "allreduce", 600.0) for rank in range(64)}
    text = describe_stall(states[3], states)
    assert text.startswith("rank 0 has been in allreduce for 600 s after step 7; ")
    assert text.endswith("; and 56 more ranks")
