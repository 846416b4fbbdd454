"""Batches decoded by tf.data, on the CPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.decoding import Decoding
from resnext_trainer.data.input_pipeline import Batch, Shard
from resnext_trainer.data.pipelines.base import BasePipeline
from resnext_trainer.data.pipelines.generators import from_generator
from resnext_trainer.data.sampling import BatchSchedule
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import cpus


class TfData(BasePipeline):
    """Decodes only the crop window, on all cores."""

    name = "tfdata"
    broken = tf.errors.OpError

    def __init__(self, config: Training, share: Shard) -> None:
        super().__init__(config, share)
        self._gpu = config.device == "gpu"

    def _run(self, plan: BatchSchedule, first: int, errors: list[TrainingError]) -> Iterator[Batch]:
        def arrays() -> Iterator[tuple[Any, Any, Any]]:
            for batch in self._encoded(plan, first, errors):
                cuts = np.array([cut.numbers for cut in batch.cuts], np.float32)
                yield np.array(batch.jpegs, object), cuts, batch.labels

        signature = (
            tf.TensorSpec([self._batch_size], tf.string),
            tf.TensorSpec([self._batch_size, 9], tf.float32),
            tf.TensorSpec([self._batch_size], tf.int32),
        )
        with from_generator(arrays, signature) as encoded:
            dataset = (
                encoded.unbatch()
                .map(self._image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                .batch(self._batch_size, drop_remainder=True)
                .prefetch(2)
            )
            yield from dataset.with_options(self._options())

    def _options(self) -> tf.data.Options:
        options = tf.data.Options()
        # By default, AUTOTUNE assumes that this rank has all CPUs of the node.
        options.autotune.cpu_budget = cpus.per_rank()
        if self._gpu:
            # Decoding otherwise delays the operations that feed the GPU, which use the same threads.
            options.threading.private_threadpool_size = cpus.per_rank()
        return options

    def _can_decode(self, jpeg: bytes, cut: CropWindow) -> bool:
        try:
            self._image(tf.constant(jpeg), tf.constant(cut.numbers, tf.float32), tf.constant(0))
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(error.message) from None
        except tf.errors.OpError:
            return False
        return True

    @staticmethod
    def _out_of_memory(error: Exception) -> bool:
        return isinstance(error, tf.errors.ResourceExhaustedError)

    def _image(self, jpeg: Any, cut: Any, label: Any) -> Batch:
        return decoded(jpeg, cut, self._decoding), label


def decoded(jpeg: Any, cut: Any, decoding: Decoding) -> Any:
    """Decodes, resizes and flips a crop window of a JPEG.

    cut: float32 [9], CropWindow.numbers. Returns uint8 [size, size, 3].
    """
    window, roi, flip = tf.cast(cut[:4], tf.int32), cut[4:8], cut[8]
    image = _resized(_window(jpeg, window, decoding), roi, decoding)
    image = tf.cond(flip > 0, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, [decoding.size, decoding.size, 3])


def _window(jpeg: Any, window: Any, decoding: Decoding) -> Any:
    top, left, height, width = (window[at] for at in range(4))
    # With subsampled chroma, libjpeg-turbo's partial decoding gets the last column of the window wrong by up to 20 of
    # 255, and the first one by up to 36 if a block of 16 pixels begins there. So decode one more column on both sides
    # if the image has one.
    before = tf.minimum(left, 1)
    wider = tf.minimum(before + width + 1, tf.image.extract_jpeg_shape(jpeg)[1] - left + before)
    picture = tf.io.decode_and_crop_jpeg(
        jpeg,
        tf.stack([top, left - before, height, wider]),
        channels=3,
        dct_method="INTEGER_FAST" if decoding.fast else "INTEGER_ACCURATE",
    )
    return picture[:, before : before + width]


def _resized(picture: Any, roi: Any, decoding: Decoding) -> Any:
    scale = tf.cast(decoding.size, tf.float32) / (roi[2:] - roi[:2])
    # The operation of tf.image.resize, which accepts no region.
    image = tf.raw_ops.ScaleAndTranslate(
        images=picture[tf.newaxis],
        size=[decoding.size, decoding.size],
        scale=scale,
        translation=-roi[:2] * scale,
        kernel_type="triangle",
        antialias=decoding.antialias,
    )[0]
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
