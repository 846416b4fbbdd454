"""Bring-up of a rank, for training, evaluation and benchmarks. The order of the steps matters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.runtime import distributed
from resnext_trainer.runtime.distributed import Communicator, SingleProcess

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Runtime(Generic[Opened]):
    """A rank that is connected to the other ranks and ready to compute."""

    communicator: Communicator
    config: Training
    """Effective settings; `device` is the pinned device, gpu or cpu."""
    opened: Opened
    """Result of `open_together`, such as the dataset."""


@contextmanager
def bring_up(
    read: Callable[[], Training], open_together: Callable[[Communicator, Training], tuple[Training, Opened]]
) -> Iterator[Runtime[Opened]]:
    """Connects to the other ranks, reads the settings, pins the device, and calls `open_together`.

    `read` returns the settings of this rank. `open_together` runs on every rank, may call collectives, and returns the
    effective settings. If either raises TrainingError on one rank, all ranks raise the same error, so that none waits
    for a rank that has exited.
    """
    communicator = distributed.initialize()
    # Pin the device first: TensorFlow cannot change it after the first operation, collectives included.
    config = distributed.run_collectively(communicator, lambda: _pinned(read(), communicator))
    config, opened = open_together(communicator, config)
    _configure_tensorflow(config)
    yield Runtime(communicator, config, opened)
    communicator.gather(None)  # Barrier: when one rank exits, mpirun ends the others.


def bring_up_alone(config: Training) -> Training:
    """Pins the device for a command that uses a single process even under mpirun; returns the effective settings."""
    config = _pinned(config, SingleProcess())
    _configure_tensorflow(config)
    return config


def _pinned(config: Training, communicator: Communicator) -> Training:
    return config.model_copy(update={"device": distributed.pin_device(communicator, config.device)})


def enable_determinism(seed: int) -> None:
    """Makes all TensorFlow operations in this process deterministic, at the cost of speed."""
    tf.random.set_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _configure_tensorflow(config: Training) -> None:
    """Applies TensorFlow's process-wide settings."""
    tf.config.experimental.enable_tensor_float_32_execution(config.precision.mode == "tf32")
