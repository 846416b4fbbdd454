"""DALI pipeline: Python passes it the JPEGs of each batch, and passes its images to TensorFlow through DLPack."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.data.input_pipeline import Batch, Shard
from resnext_trainer.data.pipelines.dali_decoder import DaliPipeline, arrays
from resnext_trainer.data.sampling import BatchSchedule
from resnext_trainer.errors import TrainingError


class DaliDlpack(DaliPipeline):
    """Decodes on the device of the training, GPU or CPU."""

    broken = RuntimeError

    def __init__(self, config: Training, share: Shard) -> None:
        super().__init__(config, share, gpu=config.device == "gpu")

    def _run(self, plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[Batch]:
        labels: list[np.ndarray] = []

        def batches() -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
            for batch in self._encoded(plan, first, errors):
                labels.append(batch.labels)
                yield arrays(batch.jpegs, batch.cuts)

        pipeline = self._pipeline_of(batches(), self._batch_size)
        while True:
            try:
                (images,) = pipeline.run()
            except StopIteration:
                return
            yield self._tensor(images), tf.constant(labels.pop(0), tf.int32)

    def _tensor(self, images: Any) -> Any:
        if not self._gpu:
            return tf.constant(images.as_array())
        # A copy on the GPU, because DALI reuses its buffer for the batch after the next.
        return tf.identity(tf.experimental.dlpack.from_dlpack(images.as_tensor().__dlpack__()))
