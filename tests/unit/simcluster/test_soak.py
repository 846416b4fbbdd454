"""Which outcomes of a soak run are reported as problems."""

import dataclasses

import pytest

from tests.support.simcluster.soak import Outcome, Sample, tracebacks

SAMPLE = Sample(memory=90.0, descriptors=30, series=100, queued=0.0)
RECORD = "2026-01-01 00:00:0{} WARNING resnext_operator.runtime.app: odd/odd-{}: retrying in {} s: x"


def outcome(**changes) -> Outcome:
    sound = Outcome(seconds=60.0, took=[3.0], samples=[SAMPLE] * 9, sizes={"Cache.trainings": 0}, left={})
    return dataclasses.replace(sound, **changes)


def test_flat_outcome_has_no_problems():
    """Memory growth in the first third is ignored: caches fill."""
    start = [dataclasses.replace(SAMPLE, memory=40.0)] * 3
    assert outcome(samples=start + [SAMPLE] * 6).problems() == []


@pytest.mark.parametrize("what", ["memory", "descriptors", "series"])
def test_growth_in_last_third_is_reported(what):
    """A leak shows as growth that does not end."""
    grown = dataclasses.replace(SAMPLE, **{what: getattr(SAMPLE, what) * 1.3})
    (problem,) = outcome(samples=[SAMPLE] * 6 + [grown] * 3).problems()
    assert problem.startswith(what)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"took": []}, "no ordinary training succeeded"),
        ({"faults": ["plain-0-1 failed"]}, "plain-0-1 failed"),
        ({"log": ["x"] * 5000}, "logged 5000 lines in 60 s"),
        ({"left": {"Cache.trainings": 11}}, "Cache.trainings holds 11 entries"),
        ({"log": ["Traceback (most recent call last):", "ValueError: x"]}, "ValueError: x"),
    ],
)
def test_outcome_problem_is_reported(changes, words):
    """Each of these outcomes is reported."""
    (problem,) = outcome(**changes).problems()
    assert words in problem


def test_tracebacks_with_same_cause_are_grouped():
    """Names and delays in the preceding log line differ."""
    cause = ["Traceback (most recent call last):", '  File "observe.py", line 1', "ValueError: x"]
    log = [line for index in range(3) for line in (RECORD.format(index, index, index), *cause)]
    assert list(tracebacks(log).values()) == [3]
