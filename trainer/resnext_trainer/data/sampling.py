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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np

from resnext_trainer.config.models import Training
from resnext_trainer.data.bad_records import BadRecords
from resnext_trainer.data.block_order import BLOCK, WINDOW, block_order, blocks, reshuffled
from resnext_trainer.data.crops import CropWindow, center_crop
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.examples import PADDING, Example, ExampleReader
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.input_pipeline import ReshuffleHistory, Shard, open_dataset
from resnext_trainer.data.random_crops import random_resized_crops
from resnext_trainer.data.shard_cache import ShardCache
from resnext_trainer.errors import system_errors
from resnext_trainer.runtime.background import BackgroundThreads

_READERS = 4
"""Batches read concurrently ahead of the decoder, enough to hide the latency of network storage."""

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

    reading: Callable[[int], AbstractContextManager[Callable[[int], EncodedBatch]]]
    """`load` for the batches in order, starting with this number."""

    def prefetch(self, first: int = 0) -> Iterator[EncodedBatch]:
        """Batches in order, starting with number `first`, read ahead by a few threads."""
        with self.reading(first) as load:
            yield from _prefetched(load, range(first, self.count))


class Batches:
    """The encoded batches of one rank."""

    def __init__(self, config: Training, share: Shard) -> None:
        self._config, self._share = config, share
        self._records: dict[str, ImageDataset] = {split: open_dataset(config, split) for split in (_TRAIN, _VALIDATION)}
        self._blocks = {
            split: blocks(records.groups) if config.data.order == "blocks" else None
            for split, records in self._records.items()
        }
        counts = {split: len(records) for split, records in self._records.items()}
        self.training_images, self.validation_images = counts[_TRAIN], counts[_VALIDATION]
        self.bad = BadRecords(config.data.max_bad_record_fraction, counts)
        self._readers = {split: ExampleReader(config, split, self.bad) for split in self._records}
        if config.data.cache is not None:
            splits = [records.shards for records in self._records.values() if isinstance(records, tfrecord.Records)]
            ShardCache(config.data.cache, splits).start()

    @property
    def examples(self) -> Mapping[str, ImageDataset]:
        """Datasets by split."""
        return self._records

    def train(self, epoch: int, seen: int = 0, redealt: ReshuffleHistory = ()) -> BatchSchedule:
        """Batches of an epoch after `seen` images; records that do not fill a global batch are dropped."""
        starts = self._blocks[_TRAIN]
        order = epoch_order(self._config.seed, epoch, self.training_images, redealt, starts)
        places = self._places(seen, in_turn=starts is not None)

        def load(records: ImageDataset, number: int) -> EncodedBatch:
            return self._training(records, order, places[number], epoch)

        return self._schedule(_TRAIN, load, order[places])

    def validate(self) -> BatchSchedule:
        """Each record once over all ranks; padded so that all ranks get the same number of full batches."""
        batch, total, ranks = self._config.batch_size, self.validation_images, self._share.size
        padded = np.full(-(-total // (batch * ranks)) * batch, PADDING)
        if self._blocks[_VALIDATION] is None:
            mine = np.arange(self._share.rank, total, ranks)
        else:  # consecutive records
            mine = np.arange(total)[
                slice(*(-(-total * part // ranks) for part in (self._share.rank, self._share.rank + 1)))
            ]
        padded[: len(mine)] = mine
        numbers = padded.reshape(-1, batch)
        return self._schedule(_VALIDATION, lambda records, number: self._padded(records, numbers[number]), numbers)

    def _schedule(
        self, split: str, load: Callable[[ImageDataset, int], EncodedBatch], numbers: np.ndarray
    ) -> BatchSchedule:
        """numbers: records of each batch, int64 [batches, batchSize]."""
        records, starts = self._records[split], self._blocks[split]
        alone = functools.partial(load, records)

        @contextmanager
        def reading(first: int) -> Iterator[Callable[[int], EncodedBatch]]:
            records.save_index()  # all ranks have completed the previous epoch, and saved the layouts that they found
            if starts is None:
                yield alone
                records.save_index()
                return
            planned = numbers[first:].ravel()
            # This rank's part of a window, after the batches that are being read.
            horizon = WINDOW * BLOCK // self._share.size + (_READERS + 1) * self._config.batch_size
            with records.reading_ahead(starts, planned[planned != PADDING], horizon) as ahead:

                def load_and_finish(number: int) -> EncodedBatch:
                    try:
                        return load(ahead, number)
                    finally:
                        ahead.finish(numbers[number][numbers[number] != PADDING])

                yield load_and_finish
            records.save_index()

        return BatchSchedule(len(numbers), alone, functools.partial(self._mark_undecodable, split, alone), reading)

    def _places(self, seen: int, *, in_turn: bool) -> np.ndarray:
        """Positions, in the order of the epoch, of the images in this rank's batches: int64 [batches, batchSize].

        A rank takes its part of each global batch or, if `in_turn`, every image of it whose number has the same
        remainder.
        """
        batch, parts, ranks = self._config.batch_size, self._config.gradient_accumulation, self._share.size
        steps = (self.training_images - seen) // self._config.global_batch(ranks)
        whole = seen + np.arange(steps * parts * batch * ranks)
        if in_turn:
            return whole.reshape(-1, batch, ranks)[:, :, self._share.rank]
        return whole.reshape(steps, ranks, parts, batch)[:, self._share.rank].reshape(-1, batch)

    def _training(self, records: ImageDataset, order: np.ndarray, places: np.ndarray, epoch: int) -> EncodedBatch:
        """The batch of the images at these positions in the order of the epoch."""

        def replacement(index: int) -> Example:
            return self._readers[_TRAIN].next_usable(records, order, int(places[index]))

        jpegs, labels, heights, widths, numbers = self._readers[_TRAIN].read(records, order[places], replacement)
        windows = random_resized_crops(
            self._config.seed, epoch, numbers, heights, widths, self._config.augmentation
        ).tolist()
        cuts = [CropWindow(top, left, height, width, bool(flip)) for top, left, height, width, flip in windows]
        return EncodedBatch(jpegs, cuts, labels, numbers.tolist())

    def _padded(self, records: ImageDataset, numbers: np.ndarray) -> EncodedBatch:
        """A batch of these validation records, with padding for bad ones."""
        padding = Example(blank(), PADDING, _BLANK_SIDE, _BLANK_SIDE, PADDING)

        def replacement(index: int) -> Example:
            number = int(numbers[index])
            return padding if number == PADDING else self._readers[_VALIDATION].usable(records, number) or padding

        jpegs, labels, heights, widths, read = self._readers[_VALIDATION].read(records, numbers, replacement)
        cuts = [
            center_crop(height, width, self._config.evaluation.crop_fraction, self._config.model.image_size)
            if number != PADDING
            else CropWindow(0, 0, height, width)
            for height, width, number in zip(heights.tolist(), widths.tolist(), read.tolist(), strict=True)
        ]
        return EncodedBatch(jpegs, cuts, labels, read.tolist())

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


_BLANK_SIDE = 8


@functools.cache
def blank() -> bytes:
    """Black JPEG, used for padding."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE)).save(stream, "JPEG")
    return stream.getvalue()


def epoch_order(
    seed: int, epoch: int, images: int, redealt: ReshuffleHistory = (), starts: np.ndarray | None = None
) -> np.ndarray:
    """Order of an epoch: a permutation of all images. Each rollback reshuffles the images not yet consumed.

    starts: blocks of images to keep together; see `block_order`.
    """
    if starts is None:
        order = np.random.default_rng([seed, epoch]).permutation(images)
        for seen, rollback in redealt:
            order[seen:] = np.random.default_rng([seed, epoch, rollback]).permutation(order[seen:])
        return order
    order = block_order([seed, epoch], starts)
    for seen, rollback in redealt:
        order = reshuffled(order, seen, block_order([seed, epoch, rollback], starts))
    return order


def _prefetched(load: Callable[[int], EncodedBatch], numbers: Iterable[int]) -> Iterator[EncodedBatch]:
    readers: BackgroundThreads[EncodedBatch] = BackgroundThreads("reader", _READERS)
    with readers:
        coming: deque[Future[EncodedBatch]] = deque()
        for number in numbers:
            coming.append(readers.submit(functools.partial(load, number)))
            if len(coming) > _READERS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
