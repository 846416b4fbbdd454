"""Bring-up of a rank, in the one order that works; training, evaluation and benchmarks share it."""

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
    """A rank that has joined the others and is ready to compute."""

    ranks: Communicator
    config: Training
    """The settings that apply; `device` is the pinned one, gpu or cpu."""
    opened: Opened
    """What `bring_up` was asked to open, such as the dataset."""


@contextmanager
def bring_up(
    read: Callable[[], Training], open_together: Callable[[Communicator, Training], tuple[Training, Opened]]
) -> Iterator[Runtime[Opened]]:
    """Joins the other ranks, reads the settings, pins the device, and opens what all ranks need.

    `read` returns the settings of this rank. `open_together` runs on every rank; it may exchange data with the others,
    and returns the settings that apply from then on. All ranks agree after each part: if one refuses, by raising
    TrainingError, the same error is raised on all of them, so that none waits for a rank that has left.
    """
    ranks = distributed.initialize()
    # The device comes first: it cannot be chosen any more once TensorFlow has run anything, an exchange included.
    config = distributed.run_collectively(ranks, lambda: _pinned(read(), ranks))
    config, opened = open_together(ranks, config)
    _configure_tensorflow(config)
    yield Runtime(ranks, config, opened)
    ranks.gather(None)  # No rank leaves before all are done: mpirun ends the others when one exits.


def bring_up_alone(config: Training) -> Training:
    """The same for a command that runs in one process, also under mpirun; returns the settings that apply."""
    config = _pinned(config, SingleProcess())
    _configure_tensorflow(config)
    return config


def _pinned(config: Training, ranks: Communicator) -> Training:
    return config.model_copy(update={"device": distributed.pin_device(ranks, config.device)})


def enable_determinism(seed: int) -> None:
    """Makes all operations of TensorFlow in this process give the same results each time; slower."""
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _configure_tensorflow(config: Training) -> None:
    """Settings of TensorFlow that apply to the whole process."""
    tf.config.experimental.enable_tensor_float_32_execution(config.precision.mode == "tf32")
