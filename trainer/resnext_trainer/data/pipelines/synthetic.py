"""Random images, to measure throughput without storage. There is no validation set."""

import itertools
from collections.abc import Iterator, Mapping

import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.input_pipeline import Batch, ReshuffleHistory, Shard


class Synthetic:
    """Repeats one batch of noise."""

    name = "synthetic"
    validation_images = 0
    bad = None
    examples: Mapping[str, ImageDataset] = {}

    def __init__(self, config: Training, share: Shard) -> None:
        self.training_images = config.data.synthetic_images
        self._parts, self._global_batch = config.gradient_accumulation, config.global_batch(share.size)
        size, seed = config.model.image_size, [config.seed, share.rank]
        noise = tf.random.stateless_uniform([config.batch_size, size, size, 3], seed, 0, 256, tf.int32)
        labels = tf.random.stateless_uniform([config.batch_size], seed, 0, config.model.classes, tf.int32)
        self._batch: Batch = (tf.cast(noise, tf.uint8), labels)

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> Iterator[Batch]:  # noqa: ARG002
        steps = (self.training_images - seen) // self._global_batch
        return itertools.repeat(self._batch, steps * self._parts)

    def validate(self) -> Iterator[Batch]:
        return iter(())
