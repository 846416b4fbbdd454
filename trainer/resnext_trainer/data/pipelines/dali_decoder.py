"""Decoding and resizing by DALI's operators, shared by the pipelines that use DALI.

On CPUs, pixels match tf.data within 1 of 255, except at the border of an image that is reduced with antialiasing:
DALI's filter repeats the edge of the window, whereas the filters of tf.data and Pillow end at the edge. These pixels
differ by up to 11 in smooth images, 18 in noise and 32 in black and white noise.

On GPUs, nvJPEG has an accurate DCT only, and with fastDecode the chroma is replicated.
"""

from abc import ABC
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from resnext_trainer.config.models import Training
from resnext_trainer.data.crops import CropWindow
from resnext_trainer.data.decoding import Decoding
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.pipelines.base import BasePipeline
from resnext_trainer.runtime import cpus

_LEAST_THREADS, _MOST_THREADS = 4, 16
"""Bounds of the number of threads per rank, which is otherwise the number of CPUs per rank.

16 threads decode 2.3 times as many images as 4 on an H200.
"""


class DaliPipeline(BasePipeline, ABC):
    """Decodes on a GPU or on the CPU."""

    name = "dali"

    def __init__(self, config: Training, share: Shard, *, gpu: bool) -> None:
        super().__init__(config, share)
        self._gpu = gpu
        self._threads = max(_LEAST_THREADS, min(_MOST_THREADS, cpus.per_rank()))

    def _pipeline_of(self, batches: Iterator[tuple[list[np.ndarray], np.ndarray]], batch_size: int) -> Any:
        """A DALI pipeline that decodes batches as `arrays` returns them."""
        from nvidia.dali import Pipeline, fn

        pipeline = Pipeline(batch_size, self._threads, device_id=0 if self._gpu else None)
        with pipeline:
            jpegs, windows = fn.external_source(batches, num_outputs=2)
            pipeline.set_outputs(images(jpegs, windows, self._decoding, gpu=self._gpu))
        pipeline.build()
        return pipeline

    def _can_decode(self, jpeg: bytes, cut: CropWindow) -> bool:
        # A GPU decodes part of each batch with its hardware decoder, so on a GPU, decode a whole batch of copies.
        copies = self._batch_size if self._gpu else 1
        try:
            self._pipeline_of(iter([arrays([jpeg] * copies, [cut] * copies)]), copies).run()
        except RuntimeError as error:
            if self._out_of_memory(error):
                raise MemoryError(str(error)) from None
            return False
        return True

    @staticmethod
    def _out_of_memory(error: Exception) -> bool:
        # DALI raises RuntimeError for everything; these are the messages of its allocators and of CUDA.
        return any(words in str(error) for words in ("bad_alloc", "out of memory", "MemoryAllocation", "OutOfMemory"))


def arrays(jpegs: Sequence[bytes], cuts: Sequence[CropWindow]) -> tuple[list[np.ndarray], np.ndarray]:
    """JPEGs of a batch, each uint8 [length], and their crop windows: float32 [batch, 9]."""
    return [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs], np.array([cut.numbers for cut in cuts], np.float32)


def images(jpegs: Any, windows: Any, decoding: Decoding, *, gpu: bool) -> Any:
    """Operators that decode, resize and flip crop windows of JPEGs.

    jpegs: uint8 [length]; windows: float32 [9], CropWindow.numbers. Returns uint8 [size, size, 3].
    """
    from nvidia.dali import fn, types

    found = fn.decoders.image_slice(
        jpegs,
        fn.cast(windows[0:2], dtype=types.INT32),
        fn.cast(windows[2:4], dtype=types.INT32),
        device="mixed" if gpu else "cpu",
        axis_names="HW",
        output_type=types.RGB,
        # The window refers to the pixels as stored; the other pipelines ignore the Exif orientation as well.
        adjust_orientation=False,
        use_fast_idct=decoding.fast,  # ignored by nvJPEG
        # Only on GPUs; the CPU decoder always interpolates the chroma. On GPUs, interpolation keeps crops off the
        # hardware decoder: 6,350 instead of 20,388 images/s on an H200.
        jpeg_fancy_upsampling=not decoding.fast,
    )
    found = fn.resize(
        found,
        size=[float(decoding.size)] * 2,
        roi_start=windows[4:6],
        roi_end=windows[6:8],
        interp_type=types.INTERP_LINEAR,
        antialias=decoding.antialias,
    )
    return fn.flip(found, horizontal=fn.cast(windows[8], dtype=types.INT32))
