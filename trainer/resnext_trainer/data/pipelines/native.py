"""Batches decoded by libjpeg-turbo and resized in C, on the CPU.

The results equal those of tf.data within 1 of 255.
"""

import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import native_decoder
from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.input_pipeline import Batch, Shard
from resnext_trainer.data.pipelines.base import BasePipeline
from resnext_trainer.data.sampling import BatchSchedule, EncodedBatch
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import cpus
from resnext_trainer.runtime.background import BackgroundThreads

_AHEAD = 2
"""Batches that are decoded before they are needed."""


class Native(BasePipeline):
    """Decodes only the crop window, on all cores; each batch is one call into C."""

    name = "native"
    broken = native_decoder.DecodeError

    def __init__(self, config: Training, share: Shard) -> None:
        if not native_decoder.available():
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                "spec.training.data.pipeline: native, but the package resnext-native is not installed: set pipeline to "
                "auto or tfdata",
            )
        super().__init__(config, share)
        self._threads = cpus.per_rank()

    def _run(self, plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[Batch]:  # noqa: ARG002
        # One thread, because each call uses all cores.
        decoder: BackgroundThreads[tuple[np.ndarray, np.ndarray]] = BackgroundThreads("decoder")
        with decoder:
            coming: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
            for batch in plan.prefetch(first):
                coming.append(decoder.submit(functools.partial(self._arrays, batch)))
                if len(coming) > _AHEAD:
                    yield _tensors(*coming.popleft().result())
            while coming:
                yield _tensors(*coming.popleft().result())

    def _arrays(self, batch: EncodedBatch) -> tuple[np.ndarray, np.ndarray]:
        return native_decoder.decode(batch.jpegs, batch.cuts, self._decoding, self._threads), batch.labels

    def _can_decode(self, jpeg: bytes, cut: CropWindow) -> bool:
        try:
            native_decoder.decode([jpeg], [cut], self._decoding, threads=1)
        except native_decoder.DecodeError as error:
            if error.out_of_memory:
                raise MemoryError(str(error)) from None
            return False
        return True

    @staticmethod
    def _out_of_memory(error: Exception) -> bool:
        return isinstance(error, native_decoder.DecodeError) and error.out_of_memory


def _tensors(images: np.ndarray, labels: np.ndarray) -> Batch:
    with tf.device("CPU"):  # like the tensors of tf.data, even if the machine has a GPU
        return tf.constant(images), tf.constant(labels, tf.int32)
