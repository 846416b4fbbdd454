"""The records that cannot be used: which they are, and how many a training puts up with."""

import logging
import threading
from collections.abc import Iterable, Mapping

from resnext_trainer.data import tfrecord
from resnext_trainer.refusal import Refused

log = logging.getLogger(__name__)

Found = tuple[str, int]
"""A split (train, validation) and a record's number in it."""


class BadRecords:
    """What one rank has found; each rank alone, and all together, may find a share of every split."""

    def __init__(self, share: float, records: Mapping[str, int]) -> None:
        self._share, self._records = share, records
        self._lock = threading.Lock()
        self.found: set[Found] = set()

    def __contains__(self, record: Found) -> bool:
        return record in self.found

    def add(self, split: str, number: int, reason: Refused) -> None:
        """Skips a record from now on and names it in the log; raises Refused where that is one too many."""
        with self._lock:  # several threads read
            if (split, number) in self.found:
                return
            self.found.add((split, number))
        if not self._share:
            raise reason
        self.check(self.found, reason.message)
        log.warning("skipped a %s record: %s", split, reason.message)

    def check(self, found: Iterable[Found], last: str = "the log names them", *, agreed: bool = False) -> None:
        """Raises Refused if this is more than the share of any split."""
        splits = [split for split, _ in list(found)]
        for split, records in self._records.items():
            if splits.count(split) > self._share * records:
                raise tfrecord.refused(
                    f"{splits.count(split)} of {records:,} {split} records are bad, and data.badRecords allows a share "
                    f"of {self._share:g}: {last}",
                    agreed=agreed,
                )
