"""Which records, cut how, make which batch: a function of (seed, epoch, images seen), for every pipeline alike.

The order of an epoch is one permutation of all records. A step takes the next global batch of it, and each rank its
part of that: so two ranks see what one rank with the joined batch would, and a training resumes in mid-epoch, also
with another number of ranks, without reading what it has seen.

A training record that cannot be used gives its place to the next one in the epoch's order that can, which is then
seen twice: so batches stay full, every rank makes as many steps, and the order stays a function of the data alone. A
validation record that cannot be used is masked like padding.
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
"""Batches read at the same time, ahead of the decoder: enough to hide a network disk's delay."""

PADDING = -1

_TRAIN, _VALIDATION = "train", "validation"


@dataclass(frozen=True)
class EncodedBatch:
    """A batch before decoding."""

    jpegs: list[bytes]
    cuts: list[CropWindow]
    labels: np.ndarray
    numbers: list[int]
    """Which records these are; padding is none."""


@dataclass(frozen=True)
class BatchSchedule:
    """A row of batches, each made when it is asked for, always the same."""

    count: int
    load: Callable[[int], EncodedBatch]
    mark_undecodable: Callable[[int, Callable[[bytes, CropWindow], bool]], bool]
    """Skips the records of a batch that a decoder cannot do; whether there were any. TrainingError where they are too
    many.
    """

    def prefetch(self, first: int = 0) -> Iterator[EncodedBatch]:
        """The batches from one on, in order, read ahead by a few threads."""
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
        """The pictures by split."""
        return self._records

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> BatchSchedule:
        """An epoch's batches after those seen; the records that fill no global batch are left for another epoch."""
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
        """Every size-th record from this rank's on; padded at the end to whole batches, as many on every rank."""
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
        raise tfrecord.data_error(f"no train record in {self._config.data.path} can be used; the log says why of each")

    def _usable(self, split: str, number: int, epoch: int | None) -> "_Example | None":
        """A record with its cut; None where it is bad, which is noted. TrainingError where there are too many of
        those.
        """
        if (split, number) in self.bad:
            return None
        records = self._records[split]
        try:
            # A fault of the process or its storage ends the attempt, to be retried; it makes no bad record.
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
                f"{records.location(number)}: its label is {label}, and model.classes {classes} with data.firstLabel "
                f"{first} mean {first} to {first + classes - 1}: {advice} as the data has it"
            )
        return label - first

    def _cut(self, jpeg: bytes, records: ImageDataset, number: int, epoch: int | None) -> tuple[bytes, CropWindow]:
        """The JPEG as every decoder reads it, and the window of it."""
        try:
            height, width = jpeg_size(jpeg)
            jpeg = regular(jpeg)
        except ValueError as error:
            raise tfrecord.data_error(f"{records.location(number)}: the image cannot be decoded: {error}") from None
        if epoch is None:
            return jpeg, center_crop(height, width, self._config.evaluation.crop_fraction)
        random = np.random.default_rng([self._config.seed, epoch, number])
        return jpeg, random_resized_crop(height, width, self._config.augmentation, random)


_Example = tuple[bytes, CropWindow, int, int]
"""JPEG, cut, class and number of a record."""

_BLANK_SIDE = 8


@functools.cache
def blank() -> bytes:
    """A black image as JPEG: what padding shows."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE)).save(stream, "JPEG")
    return stream.getvalue()


def epoch_order(seed: int, epoch: int, images: int, redealt: ReshuffleHistory = ()) -> np.ndarray:
    """The order of an epoch: each image once. What was not seen when a rollback came is dealt anew from there on."""
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
