"""DALI pipeline as a tf.data dataset, created by DALI's TensorFlow plugin.

Python yields a batch of JPEGs at a time; operations of tf.data in C++ pass each image to DALI.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.data.input_pipeline import Batch, Shard
from resnext_trainer.data.pipelines.dali_decoder import DaliPipeline, images
from resnext_trainer.data.pipelines.generators import from_generator
from resnext_trainer.data.sampling import BatchSchedule
from resnext_trainer.errors import TrainingError

_INPUT = "images"
_WINDOW_BYTES = 36
"""Bytes of the nine numbers of a crop window, in front of each JPEG: an input of DALI's dataset has one tensor, and
several inputs would be separate datasets, each of which reads the records."""

_DEPTH = 2
"""Batches in DALI's queue, which bounds its memory."""


class DaliPlugin(DaliPipeline):
    """Decodes where DALI's dataset is placed."""

    broken = tf.errors.OpError
    queued = _DEPTH

    def __init__(self, config: Training, share: Shard, *, gpu: bool = False) -> None:
        super().__init__(config, share, gpu=gpu)
        self._device = "/gpu:0" if gpu else "/cpu:0"

    def _run(self, plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[Batch]:
        labels: deque[np.ndarray] = deque()

        def strings() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in self._encoded(plan, first, errors):
                labels.append(batch.labels)
                yield np.array(batch.jpegs, object), np.array([cut.numbers for cut in batch.cuts], np.float32)

        signature = tf.TensorSpec([self._batch_size], tf.string), tf.TensorSpec([self._batch_size, 9], tf.float32)
        with from_generator(strings, signature) as encoded:
            for (decoded,) in self._iterator(encoded):
                yield decoded, tf.constant(labels.popleft(), tf.int32)

    def _iterator(self, encoded: Any) -> Iterator[tuple[Any]]:
        """Decoded batches. encoded: dataset, on the CPU, of batches of JPEGs and their crop windows."""
        # Records are read by the CPU, even if the training runs on a GPU.
        with tf.device("/cpu:0"):
            joined = encoded.unbatch().map(_joined).prefetch(self._batch_size)
        with tf.device(self._device):
            if self._gpu:
                joined = joined.apply(tf.data.experimental.copy_to_device(self._device))
            return iter(self._dataset(joined))

    def _dataset(self, joined: Any) -> Any:
        """DALI's dataset. joined: dataset of `_joined` images, on the same device."""
        from nvidia.dali import Pipeline, fn, types
        from nvidia.dali.plugin.tf import experimental

        chosen = {"device_id": 0 if self._gpu else None, "num_threads": self._threads, "prefetch_queue_depth": _DEPTH}
        pipeline = Pipeline(self._batch_size, **chosen)
        with pipeline:
            source = fn.external_source(name=_INPUT, batch=False, ndim=1, dtype=types.UINT8)
            windows = fn.reinterpret(source[:_WINDOW_BYTES], dtype=types.FLOAT)
            pipeline.set_outputs(images(source[_WINDOW_BYTES:], windows, self._decoding, gpu=self._gpu))
        size = self._decoding.size
        return experimental.DALIDatasetWithInputs(
            pipeline,
            input_datasets={_INPUT: joined},
            batch_size=self._batch_size,
            output_dtypes=tf.uint8,
            output_shapes=(self._batch_size, size, size, 3),
            **chosen,
        )


def _joined(jpeg: Any, window: Any) -> Any:
    """uint8 [36 + length]: the crop window as nine numbers, float32 [9], and the JPEG."""
    return tf.concat([tf.reshape(tf.bitcast(window, tf.uint8), [-1]), tf.io.decode_raw(jpeg, tf.uint8)], 0)
