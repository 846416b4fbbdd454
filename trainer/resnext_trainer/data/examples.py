"""Examples: images with label and size, read and checked; bad records are recorded and not used."""

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.bad_records import BadRecords
from resnext_trainer.data.crops import jpeg_size, regular
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.shards import data_error
from resnext_trainer.errors import TrainingError, system_errors

PADDING = -1


class Example(NamedTuple):
    """An image before decoding, with its class, size in pixels and record number."""

    jpeg: bytes
    label: int
    height: int
    width: int
    number: int


class Examples(NamedTuple):
    """The columns of many examples."""

    jpegs: list[bytes]
    labels: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    numbers: np.ndarray


class ExampleReader:
    """Reads the examples of one split."""

    def __init__(self, config: Training, split: str, bad: BadRecords) -> None:
        self._split, self._bad, self._path = split, bad, config.data.path
        self._first, self._classes = config.data.first_label, config.model.classes

    def read(self, records: ImageDataset, numbers: np.ndarray, replacement: Callable[[int], Example]) -> Examples:
        """The images with these numbers. Those that cannot be read together come from `replacement`, by their index."""
        with system_errors():
            found = records.read_batch(numbers)
        labels, heights, widths = found.labels - self._first, found.heights, found.widths
        usable = (
            (labels >= 0) & (labels < self._classes) & (numbers != PADDING) & ~self._bad.among(self._split, numbers)
        )
        jpegs = [jpeg if good else None for jpeg, good in zip(found.jpegs, usable.tolist(), strict=True)]
        numbers = numbers.copy()
        for index in [index for index, jpeg in enumerate(jpegs) if jpeg is None]:
            jpegs[index], labels[index], heights[index], widths[index], numbers[index] = replacement(index)
        return Examples(cast(list[bytes], jpegs), labels.astype(np.int32), heights, widths, numbers)

    def next_usable(self, records: ImageDataset, order: np.ndarray, place: int) -> Example:
        """The first usable record of this order at or after `place`, wrapping around at the end."""
        for further in range(len(order)):
            number = int(order[(place + further) % len(order)])
            if example := self.usable(records, number):
                return example
        raise data_error(
            f"no training record in {self._path} can be used: the log lists the first bad records with their reasons"
        )

    def usable(self, records: ImageDataset, number: int) -> Example | None:
        """A record; None if it is bad, which is recorded. Raises TrainingError if there are too many bad records."""
        if (self._split, number) in self._bad:
            return None
        try:
            # A fault of the process or the storage ends the attempt, which is retried; the record is not bad.
            with system_errors():
                jpeg, label = records.read(number)
                jpeg, height, width = _sized(jpeg, records, number)
                return Example(jpeg, self._checked(label, records, number), height, width, number)
        except TrainingError as reason:
            if reason.verdict is not ExitStatus.INVALID_DATA:
                raise
            self._bad.add(self._split, number, reason)
            return None

    def _checked(self, label: int, records: ImageDataset, number: int) -> int:
        first, classes = self._first, self._classes
        if not first <= label < first + classes:
            advice = f"set data.firstLabel to {1 - first}" if label in (0, first + classes) else "set model.classes"
            raise data_error(
                f"{records.location(number)}: label {label} is out of range; model.classes {classes} and "
                f"data.firstLabel {first} allow {first} to {first + classes - 1}: {advice} to match the dataset"
            )
        return label - first


def _sized(jpeg: bytes, records: ImageDataset, number: int) -> tuple[bytes, int, int]:
    """The JPEG in a form that every decoder accepts, its height and its width."""
    try:
        height, width = jpeg_size(jpeg)
        return regular(jpeg), height, width
    except ValueError as error:
        raise data_error(f"{records.location(number)}: the image cannot be decoded: {error}") from None
