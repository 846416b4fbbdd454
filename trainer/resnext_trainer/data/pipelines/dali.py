"""Batches decoded by NVIDIA DALI. The only module that imports DALI.

DALI gets the same JPEGs and crop windows as tf.data, so both produce the same images in the same order and resume
identically. DALI's readers, random numbers and TensorFlow plugin are not used.

On CPUs, pixels match tf.data within 1 of 255, except at the border of an image that is reduced with antialiasing:
DALI's filter repeats the edge of the window, whereas the filters of tf.data and Pillow end at the edge. These pixels
differ by at most 15 on noise. On GPUs, nvJPEG has an accurate DCT only, and with fastDecode the chroma is replicated.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.input_pipeline import Batch, Shard
from resnext_trainer.data.pipelines.base import BasePipeline
from resnext_trainer.data.sampling import BatchSchedule
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import cpus

_LEAST_THREADS, _MOST_THREADS = 4, 16
"""Per rank, as far as there are cores. 16 threads decode 2.3 times as many images as 4 on an H200."""


def loads() -> bool:
    """Whether DALI is installed and can be imported."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        return False
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


class Dali(BasePipeline):
    """Decodes on the device of the training, GPU or CPU."""

    name = "dali"
    broken = RuntimeError

    def __init__(self, config: Training, share: Shard) -> None:
        if not loads():
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                "spec.training.data.pipeline: dali, but DALI cannot be imported: set pipeline to auto or tfdata",
            )
        super().__init__(config, share)
        self._gpu = config.device == "gpu"

    def _run(self, plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[Batch]:
        labels: list[np.ndarray] = []

        def arrays() -> Iterator[tuple[Any, ...]]:
            # DALI may wrap the exception in its own, so keep the original.
            try:
                for batch in plan.prefetch(first):
                    labels.append(batch.labels)
                    yield _inputs(batch.jpegs, batch.cuts)
            except TrainingError as error:
                errors.append(error)
                raise

        pipeline = self._pipeline(arrays())
        while True:
            try:
                (images,) = pipeline.run()
            except StopIteration:
                return
            yield self._tensor(images), tf.constant(labels.pop(0), tf.int32)

    def _can_decode(self, jpeg: bytes, cut: CropWindow) -> bool:
        try:
            self._pipeline(iter([_inputs([jpeg] * self._batch_size, [cut] * self._batch_size)])).run()
        except RuntimeError as error:
            if self._out_of_memory(error):
                raise MemoryError(str(error)) from None
            return False
        return True

    @staticmethod
    def _out_of_memory(error: Exception) -> bool:
        # DALI raises RuntimeError for everything; these are the messages of its allocators and of CUDA.
        return any(words in str(error) for words in ("bad_alloc", "out of memory", "MemoryAllocation", "OutOfMemory"))

    def _pipeline(self, source: Iterator[tuple[Any, ...]]) -> Any:
        from nvidia.dali import Pipeline, fn, types

        decoding, threads = self._decoding, max(_LEAST_THREADS, min(_MOST_THREADS, cpus.per_rank()))
        pipeline = Pipeline(self._batch_size, threads, device_id=0 if self._gpu else None)
        with pipeline:
            jpegs, starts, sizes, begins, ends, flips = fn.external_source(source, num_outputs=6)
            images = fn.decoders.image_slice(
                jpegs,
                starts,
                sizes,
                device="mixed" if self._gpu else "cpu",
                axis_names="HW",
                output_type=types.RGB,
                # The window refers to the pixels as stored; the other pipelines ignore the Exif orientation as well.
                adjust_orientation=False,
                use_fast_idct=decoding.fast,  # ignored by nvJPEG
                # Only on GPUs; the CPU decoder always interpolates the chroma. There, interpolation keeps crops off the
                # hardware decoder: 6,350 instead of 20,388 images/s on an H200.
                jpeg_fancy_upsampling=not decoding.fast,
            )
            images = fn.resize(
                images,
                size=[float(decoding.size)] * 2,
                roi_start=begins,
                roi_end=ends,
                interp_type=types.INTERP_LINEAR,
                antialias=decoding.antialias,
            )
            pipeline.set_outputs(fn.flip(images, horizontal=flips))
        pipeline.build()
        return pipeline

    def _tensor(self, images: Any) -> Any:
        if not self._gpu:
            return tf.constant(images.as_array())
        # A copy on the GPU, because DALI reuses its buffer for the batch after the next.
        return tf.identity(tf.experimental.dlpack.from_dlpack(images.as_tensor().__dlpack__()))


def _inputs(jpegs: Sequence[bytes], cuts: Sequence[CropWindow]) -> tuple[Any, ...]:
    starts = np.array([(cut.top, cut.left) for cut in cuts], np.int32)
    sizes = np.array([(cut.height, cut.width) for cut in cuts], np.int32)
    begins = np.array([cut.roi[:2] for cut in cuts], np.float32)
    ends = np.array([cut.roi[2:] for cut in cuts], np.float32)
    flips = np.array([cut.flip for cut in cuts], np.int32)
    return [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs], starts, sizes, begins, ends, flips
