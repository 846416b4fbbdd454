"""The comparison of precisions with float32 runs with a small network on a CPU."""

import json

import numpy as np
import pytest

from benchmarks.precision import Step, compare, main

SMALL = [
    *("model.architecture=custom", "model.classes=10", "model.imageSize=16"),
    "model.custom={blocks: [1], groups: 4, width: 4, channels: 32, stem: 8, smallImages: true}",
]


def run(capsys, *options):
    words = [word for each in SMALL for word in ("--set", each)]
    assert main(["--device", "cpu", "--batch", "8", *words, *options]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_precisions_are_compared_with_float32(capsys):
    """The reference comes first; bf16 is close to it, and XLA closer."""
    facts, exact, compiled, bf16 = run(capsys, "--mode", "fp32+xla", "--mode", "bf16")
    assert facts["device"] == "cpu"
    assert (exact["mode"], exact["cosine"], exact["lossDifference"]) == ("fp32", pytest.approx(1), 0)
    assert compiled["cosine"] == pytest.approx(1, abs=1e-5)
    assert 0.9 < bf16["cosine"] < 1 - 1e-7


def test_no_precision_starts_after_deadline(capsys):
    """The results so far are printed."""
    assert len(run(capsys, "--minutes", "0")) == 1


def test_compare_measures_direction_and_length():
    """The cosine ignores the length, the ratio of norms the direction."""
    exact = Step(1.0, np.array([3.0, 4.0]), 1.0)
    found = compare(Step(1.5, np.array([-8.0, 6.0]), 2.0), exact)
    assert (found["cosine"], found["ratioOfNorms"], found["lossDifference"]) == (0, 2, 0.5)
    assert compare(Step(1.0, np.array([np.nan, 1.0]), 1.0), exact)["cosine"] is None
