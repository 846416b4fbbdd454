"""The records that cannot be used: which they are, and how many a training tolerates. A bit a record."""

import logging
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from resnext_trainer.data.problem_summary import NAMED
from resnext_trainer.data.shards import data_error
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

Marks = Mapping[str, np.ndarray]
"""By split (train, validation): a bit a record, set where it is bad."""


class BadRecords:
    """What one rank has found; each rank alone, and all together, may find a share of every split."""

    def __init__(self, share: float, records: Mapping[str, int]) -> None:
        self._share, self._records = share, records
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(records, 0)
        self.marks: Marks = {split: np.zeros(-(-count // 8), np.uint8) for split, count in records.items()}

    def __contains__(self, record: tuple[str, int]) -> bool:
        split, number = record
        return bool(self.marks[split][number >> 3] >> (number & 7) & 1)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __bool__(self) -> bool:
        return True  # also without a bad record

    def add(self, split: str, number: int, reason: TrainingError) -> None:
        """Skips a record from now on; raises TrainingError where that is one too many.

        The first records of each split are named in the log, later ones counted whenever their number has doubled.
        """
        with self._lock:  # several threads read
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
            log.warning("skipped %d %s records so far, at last: %s", count, split, reason.message)

    def check_together(self, marks: Sequence[Marks]) -> None:
        """Raises TrainingError, on every rank alike, if all ranks together have found more than the share of a
        split.
        """
        for split in self._records:
            together = np.bitwise_or.reduce([each[split] for each in marks])
            self._check(
                split, int(np.bitwise_count(together).sum()), "the log names the first of them", collective=True
            )

    def _check(self, split: str, count: int, last: str, *, collective: bool = False) -> None:
        if count > self._share * self._records[split]:
            raise data_error(
                f"{count:,} of {self._records[split]:,} {split} records are bad, and data.maxBadRecordFraction "
                f"allows a share of {self._share:g}: {last}",
                collective=collective,
            )
