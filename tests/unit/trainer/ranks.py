"""Program that test_ranks starts on each rank under mpirun: COMMAND FOLDER TO, where TO is a path without suffix."""

import sys

import numpy as np
import tensorflow as tf

from resnext_trainer.config.validation import resolve
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.model import layers
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import RankRequests, apply_gradients, forward_backward
from resnext_trainer.runtime import distributed

GLOBAL_BATCH = 32


def configuration(folder, communicator, mode, smoothing=0.1):
    return resolve(
        {
            "model": {"architecture": "resnext17-8x4d", "classes": 10, "imageSize": 32},
            "batchSize": GLOBAL_BATCH // communicator.size,
            "precision": {"mode": mode},
            "labelSmoothing": smoothing,
            "xla": False,
            "data": {"path": folder},
        }
    )


def joined(communicator, folder, to):
    """Runs one step; rank 0 writes the result to a file."""
    # Frozen, because batch statistics differ between the parts and the whole batch.
    with_statistics = layers.batch_norm
    layers.batch_norm = lambda *given, training: with_statistics(*given, training=False)  # noqa: ARG005
    config = configuration(folder, communicator, "fp32")
    state = TrainState(config, "cpu")
    images, labels = next(TfData(config, Shard(communicator.rank, communicator.size)).train(0, 0))
    gradients = forward_backward(state, images, labels, tf.ones(1))
    # Only the last rank gets the stop request; all must receive it.
    outcome = apply_gradients(
        state, communicator, gradients, 0.1, RankRequests(stop=communicator.rank == communicator.size - 1)
    ).wait()
    if not outcome.stop:
        raise AssertionError(f"rank {communicator.rank} does not know of the request to stop")
    if communicator.rank == 0:
        np.savez(f"{to}.npz", loss=outcome.loss, **values(state))


def overflow(communicator, folder, to):
    """Runs float16 steps until one is applied. Each rank writes its observations and its weights before and after.

    The initial loss scale is so large that the gradients of a wrong label overflow. Only the labels of the last rank
    are wrong; those of the other ranks match the model's predictions, so their gradients are close to zero.
    """
    config = configuration(folder, communicator, "fp16", smoothing=0.0)
    state = TrainState(config, "cpu")
    state.optimizer.scale.assign(2.0**20)
    state.model.weights["classifier/bias"].assign([20.0] + 9 * [0.0])
    images, _ = next(TfData(config, Shard(communicator.rank, communicator.size)).train(0, 0))
    labels = tf.fill([len(images)], int(communicator.rank == communicator.size - 1))
    before = values(state)
    own: list[bool] = []
    made: list[bool] = []
    scales: list[float] = []
    while not any(made) and len(made) < 15:
        gradients = forward_backward(state, images, labels, tf.ones(1))
        own.append(all(np.isfinite(gradient).all() for gradient in gradients.weights))
        made.append(apply_gradients(state, communicator, gradients, 0.1).wait().finite)
        scales.append(float(state.optimizer.scale))
        if not made[-1]:
            between = values(state)
    seen = {"own": np.array(own), "made": np.array(made), "scales": np.array(scales)}
    parts = {"before": before, "between": between, "after": values(state)}
    weights = {f"{part} {name}": value for part, named in parts.items() for name, value in named.items()}
    np.savez(f"{to}-{communicator.rank}.npz", allow_pickle=False, **seen, **weights)


def values(state):
    return {name: value.numpy() for name, value in state.variables().items()}


if __name__ == "__main__":
    command, *places = sys.argv[1:]
    together = distributed.initialize()
    distributed.pin_device(together, "cpu")
    {"joined": joined, "overflow": overflow}[command](together, *places)
