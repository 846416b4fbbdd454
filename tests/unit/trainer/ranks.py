"""What test_ranks has mpirun start: one step of a training, whose result rank 0 leaves in a file."""

import sys

import numpy as np
import tensorflow as tf

from resnext_trainer import distributed, layers
from resnext_trainer.config import resolve
from resnext_trainer.data import Share
from resnext_trainer.data.tfdata import TfData
from resnext_trainer.step import Step


def main(folder: str, to: str, global_batch: int) -> None:
    ranks = distributed.join()
    device = distributed.pin_device(ranks, "cpu")
    # Frozen: a batch's own statistics differ between the halves and the whole.
    with_statistics = layers.batch_norm
    layers.batch_norm = lambda *given, training, onednn: with_statistics(*given, training=False)  # noqa: ARG005
    config = resolve(
        {
            "model": {"architecture": "resnext17-8x4d", "classes": 10, "imageSize": 32},
            "batchSize": global_batch // ranks.size,
            "precision": {"mode": "fp32"},
            "xla": False,
            "data": {"path": folder},
        }
    )
    step = Step(config, ranks, device)
    images, labels = next(TfData(config, Share(ranks.rank, ranks.size)).train(0, 0))
    gradients, statistics, loss = step.gradients(images, labels, tf.ones(1))
    # Only the last rank is asked to stop; all must know.
    outcome = step.update(gradients, statistics, loss, rate=0.1, stop=ranks.rank == ranks.size - 1)
    if not outcome.stop:
        raise AssertionError(f"rank {ranks.rank} does not know of the request to stop")
    if ranks.rank == 0:
        np.savez(to, loss=outcome.loss, **{name: value.numpy() for name, value in step.state().items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
