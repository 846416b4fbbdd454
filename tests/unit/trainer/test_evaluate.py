"""Distributed evaluation: the accuracy does not depend on the number of ranks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.model.resnext import build_for_device
from resnext_trainer.model.train_step import eval_step
from resnext_trainer.runtime.distributed import SingleProcess
from resnext_trainer.training.evaluate import evaluate


class Threads:
    """Ranks as threads of one process, for collectives outside graphs."""

    def __init__(self, size):
        self.size, self._barrier, self._values = size, threading.Barrier(size), [None] * size

    def rank(self, number):
        return OneOfThreads(self, number)

    def gather(self, number, value):
        self._values[number] = value
        self._barrier.wait(60)
        values = list(self._values)
        self._barrier.wait(60)
        return values


class OneOfThreads(SingleProcess):
    """One rank in a thread."""

    def __init__(self, threads, number):
        self._threads, self.rank, self.size = threads, number, threads.size

    def gather(self, value):
        return self._threads.gather(self.rank, value)


@pytest.fixture(scope="module")
def counted(digits_folder):
    """(images, top-1 correct, top-5 correct) by number of ranks, for a model with random weights."""
    config = resolve(
        {
            "model": {"architecture": "resnext17-8x4d", "classes": 10, "imageSize": 32},
            "batchSize": 50,
            "precision": {"mode": "fp32"},
            "xla": False,
            "evaluation": {"cropFraction": 1.0},
            "data": {"path": str(digits_folder), "pipeline": "tfdata"},
        }
    )
    logits = partial(eval_step, build_for_device(config, "cpu"))

    def measured(size):
        ranks = Threads(size)

        def measure(rank):
            (accuracy,) = evaluate([logits], TfData(config, Shard(rank, size)), ranks.rank(rank))
            return accuracy.images, accuracy.right1, accuracy.right5

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(measure, range(size)))

    return {size: measured(size) for size in (1, 3, 7)}


@pytest.mark.parametrize("size", [1, 3, 7])
def test_evaluate_accuracy_independent_of_rank_count(counted, size):
    """Each of 1, 3 and 7 ranks reports the counts of the whole validation split."""
    (alone,) = counted[1]
    assert alone[0] == 359  # the last batches of 1, 3 and 7 ranks have about 9, 20 and 2 images
    assert 0 < alone[1] < alone[2] < 359
    assert counted[size] == [alone] * size
