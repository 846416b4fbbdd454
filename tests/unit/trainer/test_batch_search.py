"""Search for the largest batch size that fits."""

import random

import pytest

from resnext_trainer.training.batch_search import Outcome, largest_batch

FITS, TOO_LARGE, FAILED, STOP = Outcome.FITS, Outcome.TOO_LARGE, Outcome.FAILED, Outcome.STOP


class Device:
    """Fits batch sizes up to `memory`, except those in `outcomes`."""

    def __init__(self, memory, outcomes=None):
        self._memory, self._outcomes, self.tried = memory, outcomes or {}, []

    def __call__(self, batch):
        assert batch not in self.tried
        self.tried.append(batch)
        return self._outcomes.get(batch, FITS if batch <= self._memory else TOO_LARGE)


def test_search_doubles_then_bisects():
    """The search ends when the smallest failure is within an eighth of the largest success."""
    device = Device(900)
    assert largest_batch(device, 256, 4096, 8) == 896
    assert device.tried == [256, 512, 1024, 768, 896, 960]


def test_first_batch_too_large_halves():
    """The GPU has less memory than the default batch size needs."""
    device = Device(100)
    assert largest_batch(device, 256, 4096, 8) == 96
    assert device.tried[:3] == [256, 128, 64]


@pytest.mark.parametrize(("first", "step"), [(256, 8), (8, 8), (7, 1), (1, 1)])
def test_nothing_fits_returns_none(first, step):
    """The smallest batch size was tried."""
    device = Device(0)
    assert largest_batch(device, first, 4096, step) is None
    assert min(device.tried) == step


@pytest.mark.parametrize(
    ("first", "limit", "step"), [(256, 4096, 8), (256, 256, 8), (64, 100, 8), (1, 7, 1), (16, 4, 8)]
)
def test_everything_fits_returns_limit(first, limit, step):
    """The limit is the last batch size tried, even if it is no multiple of the step or below the first."""
    device = Device(10**9)
    assert largest_batch(device, first, limit, step) == limit
    assert device.tried[-1] == max(device.tried) == limit


@pytest.mark.parametrize("step", [1, 8])
def test_found_batch_is_within_an_eighth(step):
    """The search needs at most 12 attempts, whatever the size of the memory."""
    for memory in (*range(step, 300), 1000, 1023, 1024, 4095):
        device = Device(memory)
        found = largest_batch(device, 64, 4096, step)
        assert found is not None
        assert found <= memory
        assert memory < found + max(step, found / 8) + step
        assert len(device.tried) <= 12


def test_result_fits_without_monotonicity():
    """Even if a larger batch size fits after a smaller one failed, the result is the largest tried one that fits."""
    chance = random.Random(1)
    for _ in range(300):
        outcomes = {batch: chance.choice([FITS, TOO_LARGE, FAILED]) for batch in range(1, 1025)}
        device = Device(0, outcomes)
        found = largest_batch(device, chance.randrange(1, 513), 1024, 1)
        assert found == max((batch for batch in device.tried if outcomes[batch] is FITS), default=None)


def test_crash_above_success_limits_batch():
    """Libraries also crash if a tensor has more than 2^31 elements."""
    device = Device(10**9, {512: FAILED})
    assert largest_batch(device, 256, 4096, 8) == 480
    assert max(device.tried) == 512


def test_crash_of_first_batch_ends_search():
    """It is not a matter of memory, so smaller batch sizes are not tried."""
    device = Device(10**9, {256: FAILED})
    assert largest_batch(device, 256, 4096, 8) is None
    assert device.tried == [256]


@pytest.mark.parametrize(
    ("memory", "stop", "found"), [(10**9, 256, None), (10**9, 512, 256), (400, 384, 256), (100, 128, None)]
)
def test_stop_ends_search_with_result_so_far(memory, stop, found):
    """No further batch size is tried: at the first one, while doubling, bisecting and halving."""
    device = Device(memory, {stop: STOP})
    assert largest_batch(device, 256, 4096, 8) == found
    assert device.tried[-1] == stop
