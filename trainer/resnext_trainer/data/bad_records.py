"""Records that cannot be used, as one bit per record, and the limit on how many a training tolerates."""

import logging
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from resnext_trainer.data.problem_summary import NAMED
from resnext_trainer.data.shards import data_error
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

Marks = Mapping[str, np.ndarray]
"""Bit array per split (train, validation); a set bit marks a bad record."""


class BadRecords:
    """Bad records found by one rank.

    The limit is a fraction of each split. It applies to every rank and to all ranks combined.
    """

    def __init__(self, share: float, records: Mapping[str, int]) -> None:
        self._share, self._records = share, records
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(records, 0)
        self.marks: Marks = {split: np.zeros(-(-count // 8), np.uint8) for split, count in records.items()}

    def __contains__(self, record: tuple[str, int]) -> bool:
        split, number = record
        return bool(self.marks[split][number >> 3] >> (number & 7) & 1)

    def among(self, split: str, numbers: np.ndarray) -> np.ndarray:
        """Whether each of these records is bad."""
        bits: np.ndarray = self.marks[split][numbers >> 3] >> (numbers & 7) & 1
        return bits.astype(bool)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __bool__(self) -> bool:
        return True  # even when empty: `if bad` tests for None only

    def add(self, split: str, number: int, reason: TrainingError) -> None:
        """Skips a record from now on; raises TrainingError if its split exceeds the limit.

        Logs the first records of each split, then one line each time the count doubles.
        """
        with self._lock:  # called from several reader threads
            if (split, number) in self:
                return
            self.marks[split][number >> 3] |= 1 << (number & 7)
            self._counts[split] += 1
            count = self._counts[split]
        if not self._share:
            raise reason
        self._check(split, count, reason.message)
        if count <= NAMED:
            log.warning("skipped a %s record: %s", split, reason.message)
        elif count & (count - 1) == 0:
            log.warning("skipped %d %s records so far, most recently: %s", count, split, reason.message)

    def check_together(self, marks: Sequence[Marks]) -> None:
        """Raises the same TrainingError on every rank if all ranks combined exceed the limit of a split."""
        for split in self._records:
            together = np.bitwise_or.reduce([each[split] for each in marks])
            self._check(
                split, int(np.bitwise_count(together).sum()), "the log lists the first of them", collective=True
            )

    def _check(self, split: str, count: int, last: str, *, collective: bool = False) -> None:
        if count > self._share * self._records[split]:
            raise data_error(
                f"{count:,} of {self._records[split]:,} {split} records are bad, but data.maxBadRecordFraction "
                f"allows a fraction of {self._share:g}: {last}",
                collective=collective,
            )
