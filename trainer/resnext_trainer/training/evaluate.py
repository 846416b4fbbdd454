"""Accuracy on the validation set; every image counts once, for any number of ranks."""

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
    """Number of correct predictions; the accuracy is 0 if no image could be read."""

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
    communicator: Communicator,
    alive: Callable[[str], None] = lambda _doing: None,
) -> list[Accuracy]:
    """Accuracy of each network, from one pass over the images; the counts of the ranks are summed as integers.

    networks: functions from images, uint8 [batch, size, size, 3], to logits, float32 [batch, classes]. alive: called
    after each batch with the next phase.
    """
    counts = np.zeros((len(networks), 3), np.int64)
    for images, labels in source.validate():
        for network, logits in enumerate(networks):
            counts[network] += right(logits(images), labels)
        alive("evaluation")
    alive(ALLREDUCE)
    total = sum(communicator.gather(counts))
    return [Accuracy(*(int(count) for count in row)) for row in total]


def right(logits: Any, labels: Any) -> np.ndarray:
    """(images, top-1 correct, top-5 correct) of a batch. Padding (label -1) and NaN logits are never correct.

    logits: float32 [batch, classes]; labels: int32 [batch].
    """
    top5 = min(5, logits.shape[-1])
    return np.array(
        [
            np.count_nonzero(np.asarray(labels) >= 0),
            np.count_nonzero(tf.math.in_top_k(labels, logits, 1)),
            np.count_nonzero(tf.math.in_top_k(labels, logits, top5)),
        ],
        np.int64,
    )
