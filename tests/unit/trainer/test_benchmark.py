"""What a benchmark computes from the times of its steps."""

from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.training import benchmark
from resnext_trainer.training.benchmark import Timing, result
from tests.support.clock import Clock

SOURCE = SimpleNamespace(name="tfdata")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(benchmark, "time", clock)
    return clock


def test_time_steps_separates_wait_from_work(clock):
    """A step includes the wait for its batch; the steps of the warm-up count only for the warm-up."""

    def batches():
        for seconds in (32.0, 16.0, 1.0, 2.0, 0.0):
            clock.passes(seconds)
            yield None

    advanced: list[int] = []
    work = repeat(4.0)
    timing = benchmark._time_steps(batches(), lambda _batch: clock.passes(next(work)), 3, 2, advanced.append)
    assert timing.waits.tolist() == [1.0, 2.0, 0.0]
    assert timing.steps.tolist() == [5.0, 6.0, 4.0]
    assert timing.warm_up == 56.0
    assert sum(advanced) == 5


def facts(*timings):
    config = resolve({"batchSize": 8, "device": "cpu", "precision": {"mode": "fp32"}})
    return result(config, "input", SOURCE, list(timings))


@pytest.mark.parametrize("slowest", [0, 1])
def test_result_covers_all_ranks(slowest):
    """The wait is a fraction of the time of all ranks, and the slowest rank determines the throughput."""
    timings = [Timing(np.array([1.0, 3.0]), np.array([0.5, 1.5]), 7.0)]
    timings.insert(slowest, Timing(np.array([8.0, 8.0]), np.array([1.0, 0.0]), 9.0))
    found = facts(*timings)
    assert found["dataWaitShare"] == 3 / 20
    assert found["imagesPerSecond"] == 4 * 8 / 16
    assert found["latencySeconds"]["p50"] == 5.5
    assert (found["ranks"], found["steps"], found["warmUpSeconds"]) == (2, 2, 9.0)


@pytest.mark.parametrize(("waits", "share"), [([0.0, 0.0], 0.0), ([1.0, 3.0], 1.0), ([0.0, 1.0], 0.25)])
def test_result_wait_is_fraction_of_steps(waits, share):
    """From 0, if each batch is ready, to 1, if nothing but the wait takes time."""
    assert facts(Timing(np.array([1.0, 3.0]), np.array(waits), 0.0))["dataWaitShare"] == share
