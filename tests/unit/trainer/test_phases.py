"""Partition of the main thread's time into phases."""

import subprocess
import sys
import threading
import time
import urllib.request
from io import StringIO

import pytest
from prometheus_client.parser import text_string_to_metric_families

from resnext_trainer.runtime import phases
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.runtime.telemetry import compose
from resnext_trainer.training.throughput import PhaseFractions
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(phases, "time", clock)
    return clock


@pytest.fixture
def timer(clock):
    clock.now = 100.0
    return PhaseTimer(Metrics(), Heartbeat(0), started=90.0)


def spent(timer):
    return {phase: round(seconds, 9) for phase, seconds in timer.totals().items() if seconds}


def test_phase_timer_nested_phase_counted_once(timer, clock):
    """The time of an inner phase does not count for the outer one, and the rest is `other`, from the process start."""
    with timer.phase("rollback"):
        clock.passes(1)
        with timer.phase("checkpoint"):
            clock.passes(2)
        clock.passes(4)
    clock.passes(8)
    assert spent(timer) == {"other": 18, "rollback": 5, "checkpoint": 2}


def test_phase_timer_exception_ends_phase(timer, clock):
    """An error in a phase, such as a non-finite loss, does not leave the timer in it."""

    def loses():
        with timer.phase("compute"):
            clock.passes(1)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        loses()
    clock.passes(2)
    assert spent(timer) == {"other": 12, "compute": 1}


def test_phase_timer_divides_step_as_calibrated(timer, clock):
    """The time of parts that do not wait for the device is divided in the proportions of the last sample."""
    for seconds, compute in ((30, 6.0), (70, 2.0)):
        timer.calibrate({"compute": compute, "allreduce": 3.0, "optimizer": 1.0})
        with timer.part_of_step("compute"):
            clock.passes(seconds)
    shares = {"compute": 18 + 70 * 2 / 6, "allreduce": 9 + 70 * 3 / 6, "optimizer": 3 + 70 / 6}
    assert spent(timer) == pytest.approx({"other": 10, **shares})


def test_phase_timer_unfinished_phase_in_metrics(clock):
    """A scrape within a long phase, such as a compilation, contains the time until the scrape."""
    telemetry = compose(Metrics(), Console(out=StringIO()), Heartbeat(0), process_started=99.0)
    with telemetry.phases.phase("compile"):
        clock.passes(60)
        with urllib.request.urlopen(f"http://127.0.0.1:{telemetry.server.start(0)}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = {s.labels["phase"]: s.value for f in families for s in f.samples if s.name.endswith("seconds_total")}
    assert samples["compile"] == 60
    assert sum(samples.values()) == 61


def test_phase_timer_sums_to_wall_time():
    """Many short phases, sampled from another thread at the same time, add up to the time that passed."""
    started = time.monotonic()
    timer, done = PhaseTimer(Metrics(), Heartbeat(0), started), threading.Event()

    def sample():
        while not done.is_set():
            timer.totals()

    thread = threading.Thread(target=sample)
    thread.start()
    for _ in range(2000):
        with timer.phase("compute"), timer.phase("data_wait"):
            pass
    done.set()
    thread.join()
    assert sum(timer.totals().values()) == pytest.approx(time.monotonic() - started, rel=0.02)


def test_phase_fractions_sum_to_one(timer, clock):
    """Each record of the log explains the whole time since the previous one."""
    fractions = PhaseFractions(timer)
    for seconds in (1, 3):
        with timer.phase("compute"):
            clock.passes(seconds)
        clock.passes(1)
        found = fractions.sample()
        assert (found["compute"], found["other"]) == (seconds / (seconds + 1), 1 / (seconds + 1))
        assert sum(found.values()) == pytest.approx(1)


def test_process_start_known_to_child_process():
    """The start of the process precedes its imports; the monotonic clock is that of the whole machine."""
    code = "import time; time.sleep(0.5); from resnext_trainer.runtime.phases import process_start as at; print(at())"
    before = time.monotonic()
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert before - 0.1 < float(child.stdout) < before + 0.4
