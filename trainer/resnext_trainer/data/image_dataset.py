"""Interface of all dataset formats."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.read_count import ReadCount
from resnext_trainer.data.shards import data_error


@dataclass(frozen=True)
class ReadImages:
    """Images that were read together; None for each that `ImageDataset.read` must read."""

    jpegs: list[bytes | None]
    """Without stray bytes in the header; see `crops.regular`."""
    labels: np.ndarray
    """As stored; int64, like the sizes in pixels. Undefined where the JPEG is None."""
    heights: np.ndarray
    widths: np.ndarray


class ImageDataset(Protocol):
    """The images of one split, numbered from 0."""

    reads: ReadCount

    def __len__(self) -> int: ...

    def parts(self) -> list[Part]:
        """The shards or class folders, for the fingerprint of the dataset; reads no image."""

    def location(self, number: int) -> str:
        """Location of an image, for messages."""

    def read_record(self, number: int) -> tuple[bytes, int]:
        """Image as JPEG, and its label as stored; raises ValueError, whose message does not contain the location."""

    def read(self, number: int) -> tuple[bytes, int]:
        """Like `read_record`, but raises TrainingError with the location of the image."""
        try:
            return self.read_record(number)
        except ValueError as error:
            raise data_error(f"{self.location(number)}: {error}") from None

    def read_batch(self, numbers: np.ndarray) -> ReadImages:
        """Reads what can be read without parsing; never fails because of a bad image. Skips negative numbers."""
        return ReadImages([None] * len(numbers), *np.zeros((3, len(numbers)), np.int64))

    @contextmanager
    def reading_ahead(self, starts: np.ndarray, planned: np.ndarray, horizon: int) -> Iterator[Self]:  # noqa: ARG002
        """The same images for reading in the order `planned`, possibly ahead, until `finish` is called for each.

        starts: first image of each block to be read at once, and the end of the last. horizon: how many to read ahead.
        """
        yield self

    def finish(self, numbers: np.ndarray) -> None:  # noqa: ARG002
        """These planned images are not needed any more."""
        return

    def save_index(self) -> None:
        """Keeps the layouts that were determined while reading, for other ranks and the next start."""
        return

    @property
    def groups(self) -> Sequence[np.ndarray]:
        """Image numbers by shard or class folder; images of one group are stored together."""
