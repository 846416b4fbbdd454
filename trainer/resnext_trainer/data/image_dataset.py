"""What every format of a dataset offers."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.shards import data_error


class ImageDataset(Protocol):
    """The pictures of one split, each at its number, in groups that are read one after the other."""

    def __len__(self) -> int: ...

    def parts(self) -> list[Part]:
        """The shards or class folders, for the dataset's fingerprint; reads no image."""

    def location(self, number: int) -> str:
        """A picture's place, for a message."""

    def read_record(self, number: int) -> tuple[bytes, int]:
        """A picture as a JPEG, and its label as stored; a ValueError says what is wrong, and not with which picture."""

    def read(self, number: int) -> tuple[bytes, int]:
        """The same; the TrainingError that it raises instead names the picture."""
        try:
            return self.read_record(number)
        except ValueError as error:
            raise data_error(f"{self.location(number)}: {error}") from None

    @property
    def groups(self) -> Sequence[np.ndarray]:
        """The numbers of the pictures that lie together: in a shard, or in the folder of a class."""
