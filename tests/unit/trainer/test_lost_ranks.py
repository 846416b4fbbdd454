"""Ranks that stop, hang or end during a training, under launcher, sshd and mpirun as in the pods."""

import contextlib
import importlib.util
import json
import os
import signal
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from resnext_trainer.contract import ExitStatus
from tests.support.pods import Pods, wait_for
from tests.support.processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="several ranks need Horovod"),
]

SECONDS = 20
"""stallTimeoutSeconds. A step of this model takes milliseconds, or seconds if all cores are busy."""

IN_TIME = 120
"""Timeout for operations that take a second or two, or little more than SECONDS, on an idle machine."""

STEPS = 60
"""More than the 50 steps between two steps that are measured part by part."""

PRECISION = 0.05
"""Tolerance for the age of a process in seconds; the kernel counts it in hundredths of a second."""


class Training(Pods):
    """Two real ranks that would train for hours."""

    def __init__(self, folder, settings):
        super().__init__(folder)
        self.metrics_port = free_port()
        (folder / "training.json").write_text(json.dumps(settings | {"stallTimeoutSeconds": SECONDS, "epochs": 10_000}))

    def begin(self):
        """Starts both ranks and waits until they have completed steps."""
        self.worker(TF_CPP_MIN_LOG_LEVEL="2")
        launcher = self.launcher(f"--metrics-port={self.metrics_port}")
        wait_for(lambda: self.step() > 2 or launcher.poll() is not None, seconds=2 * IN_TIME)
        assert launcher.poll() is None, self.log_of("launch")
        return launcher

    def step(self):
        """Step of rank 0; 0 if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/progress", timeout=5) as answer:
                return json.load(answer)["step"]
        except OSError:  # not started yet, or too busy to answer
            return 0

    def pid(self, rank):
        return int((self.folder / "run" / "ranks" / f"{rank}.pid").read_text())

    def signal(self, rank, number):
        os.kill(self.pid(rank), number)

    def phases(self, rank):
        """Seconds that a rank has spent in each phase."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port + rank}/metrics", timeout=IN_TIME) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [each for family in families for each in family.samples if each.labels["rank"] == str(rank)]
        return {each.labels["phase"]: each.value for each in samples if each.name.endswith("phase_seconds_total")}

    def explained(self, rank):
        """Seconds since the start of a rank, its phases, and the seconds since its start after they have been read."""
        pid = self.pid(rank)
        return age(pid), self.phases(rank), age(pid)


def age(pid):
    """Seconds since the start of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0]) - int(fields[19]) / os.sysconf(
        "SC_CLK_TCK"
    )


@pytest.fixture
def training(few, tmp_path):
    training = Training(tmp_path, few)
    yield training
    training.end()


def test_stopped_rank_ends_attempt_as_hung(training):
    """The report names the stopped rank as the cause, and its last step; no process is left."""
    launcher = training.begin()
    training.signal(1, signal.SIGSTOP)
    assert launcher.wait(IN_TIME) == ExitStatus.HUNG.value
    report, log = training.report(), training.log_of("launch")
    assert (report.verdict, report.rank) == ("hung", 1)
    assert f"rank 0 completed no step for {SECONDS} s: rank 1 does not respond (last step " in report.message
    assert report.progress.step > 2
    assert "resnext_trainer/training/trainer.py" in log  # stack of rank 0, which is still running
    wait_for(lambda: not training.ranks())  # including the stopped rank


def test_killed_rank_ends_attempt_as_crashed(training):
    """The report names the killed rank as the cause, and its signal."""
    launcher = training.begin()
    training.signal(1, signal.SIGKILL)
    assert launcher.wait(IN_TIME) == ExitStatus.CRASHED.value
    report = training.report()
    assert (report.verdict, report.rank) == ("crashed", 1)
    assert report.message.startswith("rank 1 ended with signal 9 (Killed): ")


def test_stop_of_one_rank_stops_all_and_saves(training):
    """A stop request to one rank reaches all ranks, and they save a checkpoint.

    Until then, the phases of every rank explain the time since the start of its process.
    """
    launcher = training.begin()
    first = {rank: training.explained(rank) for rank in (0, 1)}
    begun = training.step()
    wait_for(lambda: training.step() > begun + STEPS, seconds=IN_TIME)
    last = {rank: training.explained(rank) for rank in (0, 1)}
    training.signal(1, signal.SIGUSR2)
    while launcher.poll() is None:
        for rank in (0, 1):
            with contextlib.suppress(OSError, HTTPException):  # it has ended
                last[rank] = training.explained(rank)
        time.sleep(0.02)
    for rank in (0, 1):
        for before, phases, after in (first[rank], last[rank]):
            assert before - PRECISION < sum(phases.values()) < after + PRECISION, rank
        unused = {phase for phase, seconds in last[rank][1].items() if seconds == first[rank][1][phase]}
        assert unused <= {"compile", "rollback"}, rank
        assert last[rank][1]["compile"] > 0, rank
    assert launcher.wait(IN_TIME) == ExitStatus.STOPPED.value
    report = training.report()
    assert report.verdict == "stopped"
    assert report.progress.checkpoint.step == report.progress.step > STEPS


def test_rank_system_error_ends_attempt_as_retryable(few, pictures, tmp_path):
    """EIO for one image ends the attempt with a status that is retried and a message that names the file."""
    training = Training(tmp_path, few | {"data": {"format": "folder", "path": str(pictures), "pipeline": "tfdata"}})
    try:
        launcher = training.begin()
        picture = next(pictures.glob("train/*/*.jpg"))
        unreadable = tmp_path / "unreadable"
        unreadable.symlink_to("/proc/self/mem")  # nothing is mapped at address 0: a read there fails with EIO
        unreadable.replace(picture)
        assert launcher.wait(IN_TIME) == ExitStatus.SYSTEM_ERROR.value
        report = training.report()
        assert (report.verdict, report.rank) in (("system_error", 0), ("system_error", 1))
        assert f"{picture.name}: Input/output error (EIO): check the storage and the node" in report.message
        wait_for(lambda: not training.ranks())
    finally:
        training.end()
