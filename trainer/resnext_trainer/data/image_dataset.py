"""Interface of all dataset formats."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.shards import data_error


class ImageDataset(Protocol):
    """The images of one split, numbered from 0."""

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

    @property
    def groups(self) -> Sequence[np.ndarray]:
        """Image numbers by shard or class folder; images of one group are stored together."""
