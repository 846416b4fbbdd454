"""Sampling: records and crops of every batch, as a function of (seed, epoch, images consumed), for all pipelines.

The order of an epoch is one permutation of all records. A step takes the next global batch, and each rank takes its
part of it. Two ranks therefore see the same images as one rank with twice the batch size. A training resumes in
the middle of an epoch, even with a different number of ranks, without reading the consumed records again.

A bad training record is replaced by the next usable one in the order of the epoch, which is then used twice. This
keeps batches full and the number of steps equal on all ranks, and the order depends on the data only. A bad validation
record is masked like padding.
"""

import functools
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.bad_records import BadRecords
from resnext_trainer.data.crops import CropWindow, center_crop, jpeg_size, random_resized_crop, regular
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.input_pipeline import ReshuffleHistory, Shard, open_dataset
from resnext_trainer.errors import TrainingError, system_errors

_READERS = 4
"""Batches read concurrently ahead of the decoder, enough to hide the latency of network storage."""

PADDING = -1

_TRAIN, _VALIDATION = "train", "validation"


@dataclass(frozen=True)
class EncodedBatch:
    """A batch before decoding."""

    jpegs: list[bytes]
    cuts: list[CropWindow]
    labels: np.ndarray
    numbers: list[int]
    """Record numbers; PADDING for padding."""


@dataclass(frozen=True)
class BatchSchedule:
    """A sequence of batches, each loaded on demand and deterministic."""

    count: int
    load: Callable[[int], EncodedBatch]
    mark_undecodable: Callable[[int, Callable[[bytes, CropWindow], bool]], bool]
    """Marks the records of a batch that the decoder rejects as bad; returns whether there were any. Raises
    TrainingError if there are too many.
    """

    def prefetch(self, first: int = 0) -> Iterator[EncodedBatch]:
        """Batches in order, starting with number `first`, read ahead by a few threads."""
        return _prefetched(self.load, range(first, self.count))


class Batches:
    """The encoded batches of one rank."""

    def __init__(self, config: Training, share: Shard) -> None:
        self._config, self._share = config, share
        self._records: dict[str, ImageDataset] = {split: open_dataset(config, split) for split in (_TRAIN, _VALIDATION)}
        counts = {split: len(records) for split, records in self._records.items()}
        self.training_images, self.validation_images = counts[_TRAIN], counts[_VALIDATION]
        self.bad = BadRecords(config.data.max_bad_record_fraction, counts)

    @property
    def examples(self) -> Mapping[str, ImageDataset]:
        """Datasets by split."""
        return self._records

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> BatchSchedule:
        """Batches of an epoch after `seen` images; records that do not fill a global batch are dropped."""
        config = self._config
        order = epoch_order(config.seed, epoch, self.training_images, redealt)
        batch, parts = config.batch_size, config.gradient_accumulation

        def load(number: int) -> EncodedBatch:
            step, part = divmod(number, parts)
            first = seen + (step * self._share.size + self._share.rank) * batch * parts + part * batch
            return self._full(order, range(first, first + batch), epoch)

        steps = (self.training_images - seen) // config.global_batch(self._share.size)
        return BatchSchedule(steps * parts, load, functools.partial(self._mark_undecodable, _TRAIN, load))

    def validate(self) -> BatchSchedule:
        """Every size-th record, starting at this rank; padded so that all ranks get the same number of full batches."""
        batch, total = self._config.batch_size, self.validation_images
        mine = np.arange(self._share.rank, total, self._share.size)

        def load(step: int) -> EncodedBatch:
            return self._padded(mine[step * batch : (step + 1) * batch])

        return BatchSchedule(
            -(-total // (batch * self._share.size)), load, functools.partial(self._mark_undecodable, _VALIDATION, load)
        )

    def _full(self, order: np.ndarray, places: Iterable[int], epoch: int) -> EncodedBatch:
        return _encoded([self._next_usable(order, place, epoch) for place in places])

    def _padded(self, numbers: np.ndarray) -> EncodedBatch:
        examples = [self._usable(_VALIDATION, int(number), epoch=None) for number in numbers]
        padding = (blank(), CropWindow(0, 0, _BLANK_SIDE, _BLANK_SIDE), PADDING, PADDING)
        examples += [None] * (self._config.batch_size - len(examples))
        return _encoded([example or padding for example in examples])

    def _next_usable(self, order: np.ndarray, place: int, epoch: int) -> "_Example":
        for further in range(len(order)):
            number = int(order[(place + further) % len(order)])
            if example := self._usable(_TRAIN, number, epoch):
                return example
        raise tfrecord.data_error(
            f"no training record in {self._config.data.path} can be used: the log lists "
            "the first bad records with their reasons"
        )

    def _usable(self, split: str, number: int, epoch: int | None) -> "_Example | None":
        """A record with its crop window; None if it is bad, which is recorded. Raises TrainingError if there are too
        many bad records.
        """
        if (split, number) in self.bad:
            return None
        records = self._records[split]
        try:
            # A fault of the process or the storage ends the attempt, which is retried; the record is not bad.
            with system_errors():
                jpeg, label = records.read(number)
                jpeg, cut = self._cut(jpeg, records, number, epoch)
                return jpeg, cut, self._checked(label, records, number), number
        except TrainingError as reason:
            if reason.verdict is not ExitStatus.INVALID_DATA:
                raise
            self.bad.add(split, number, reason)
            return None

    def _mark_undecodable(
        self, split: str, load: Callable[[int], EncodedBatch], batch: int, decodes: Callable[[bytes, CropWindow], bool]
    ) -> bool:
        encoded = load(batch)
        any_bad = False
        for jpeg, cut, number in zip(encoded.jpegs, encoded.cuts, encoded.numbers, strict=True):
            if number == PADDING:
                continue
            where = self._records[split].location(number)
            with system_errors(where):
                good = decodes(jpeg, cut)
            if not good:
                self.bad.add(split, number, tfrecord.data_error(f"{where}: the image cannot be decoded"))
                any_bad = True
        return any_bad

    def _checked(self, label: int, records: ImageDataset, number: int) -> int:
        first, classes = self._config.data.first_label, self._config.model.classes
        if not first <= label < first + classes:
            advice = f"set data.firstLabel to {1 - first}" if label in (0, first + classes) else "set model.classes"
            raise tfrecord.data_error(
                f"{records.location(number)}: label {label} is out of range; model.classes {classes} and "
                f"data.firstLabel {first} allow {first} to {first + classes - 1}: {advice} to match the dataset"
            )
        return label - first

    def _cut(self, jpeg: bytes, records: ImageDataset, number: int, epoch: int | None) -> tuple[bytes, CropWindow]:
        """The JPEG in a form that every decoder accepts, and its crop window."""
        try:
            height, width = jpeg_size(jpeg)
            jpeg = regular(jpeg)
        except ValueError as error:
            raise tfrecord.data_error(f"{records.location(number)}: the image cannot be decoded: {error}") from None
        if epoch is None:
            return jpeg, center_crop(
                height, width, self._config.evaluation.crop_fraction, self._config.model.image_size
            )
        random = np.random.default_rng([self._config.seed, epoch, number])
        return jpeg, random_resized_crop(height, width, self._config.augmentation, random)


_Example = tuple[bytes, CropWindow, int, int]
"""JPEG, crop window, class and record number."""

_BLANK_SIDE = 8


@functools.cache
def blank() -> bytes:
    """Black JPEG, used for padding."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE)).save(stream, "JPEG")
    return stream.getvalue()


def epoch_order(seed: int, epoch: int, images: int, redealt: ReshuffleHistory = ()) -> np.ndarray:
    """Order of an epoch: a permutation of all images. Each rollback reshuffles the images not yet consumed."""
    order = np.random.default_rng([seed, epoch]).permutation(images)
    for seen, rollback in redealt:
        order[seen:] = np.random.default_rng([seed, epoch, rollback]).permutation(order[seen:])
    return order


def _encoded(examples: Sequence[_Example]) -> EncodedBatch:
    jpegs, cuts, labels, numbers = zip(*examples, strict=True)
    return EncodedBatch(list(jpegs), list(cuts), np.array(labels, np.int32), list(numbers))


def _prefetched(load: Callable[[int], EncodedBatch], numbers: Iterable[int]) -> Iterator[EncodedBatch]:
    with ThreadPoolExecutor(_READERS, thread_name_prefix="reader") as pool:
        coming: deque[Future[EncodedBatch]] = deque()
        for number in numbers:
            coming.append(pool.submit(load, number))
            if len(coming) > _READERS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
