"""tf.data datasets whose elements Python generates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf


@contextmanager
def from_generator(generate: Callable[[], Iterator[Any]], signature: Any) -> Iterator[Any]:
    """`tf.data.Dataset.from_generator` on the CPU, for use inside the context. Afterwards the dataset has no elements.

    TensorFlow 2.21 keeps every generator function until the process ends (fixed by tensorflow/tensorflow#123530), and
    with it everything that the function refers to, such as the order of an epoch and the open files of a dataset. The
    function that TensorFlow gets therefore refers to `generate` only inside the context.

    signature: `output_signature` of tf.data.
    """
    generators = [generate]

    def elements() -> Iterator[Any]:
        # A copy, because a thread of tf.data may start to iterate while the context ends.
        for generator in generators.copy():
            yield from generator()

    try:
        with tf.device("/cpu:0"):
            dataset = tf.data.Dataset.from_generator(elements, output_signature=signature)
        yield dataset
    finally:
        generators.clear()
