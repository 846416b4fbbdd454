"""Accuracy on the validation set, every image once, whatever the number of ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.data.input_pipeline import InputPipeline
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import ALLREDUCE


@dataclass(frozen=True)
class Accuracy:
    """Right answers, counted; the shares follow. Where no image could be read they are 0."""

    images: int
    right1: int
    right5: int

    @property
    def top1(self) -> float:
        return self.right1 / max(1, self.images)

    @property
    def top5(self) -> float:
        return self.right5 / max(1, self.images)


def evaluate(
    networks: Sequence[Callable[[Any], Any]],
    source: InputPipeline,
    ranks: Communicator,
    alive: Callable[[str], None] = lambda _doing: None,
) -> list[Accuracy]:
    """Each network's accuracy, from one pass over the images; the ranks' counts are added up as integers.

    networks: functions from images to logits. `alive` is called after each batch with what comes next.
    """
    counts = np.zeros((len(networks), 3), np.int64)
    for images, labels in source.validate():
        for network, logits in enumerate(networks):
            counts[network] += right(logits(images), labels)
        alive("evaluation")
    alive(ALLREDUCE)
    total = sum(ranks.gather(counts))
    return [Accuracy(*(int(count) for count in row)) for row in total]


def right(logits: Any, labels: Any) -> np.ndarray:
    """(images, right at 1, right at 5) of a batch. Padding, whose label no class has, is never right, nor is NaN."""
    top5 = min(5, logits.shape[-1])
    return np.array(
        [
            np.count_nonzero(np.asarray(labels) >= 0),
            np.count_nonzero(tf.math.in_top_k(labels, logits, 1)),
            np.count_nonzero(tf.math.in_top_k(labels, logits, top5)),
        ],
        np.int64,
    )
