"""Every record looked at: its checksums, its label, and whether its JPEG decodes."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from resnext_trainer.data import images
from resnext_trainer.data.tfrecord import Records


@dataclass
class Findings:
    """What a split holds, and what is wrong with it."""

    shards: int
    records: int
    labels: Counter[int] = field(default_factory=Counter)
    """Records by label, as stored."""
    problems: list[str] = field(default_factory=list)
    """One sentence a bad record, with file and offset, in the order of the records."""


def validate(records: Records, labels: range | None, advance: Callable[[int], None] = lambda _: None) -> Findings:
    """Reads all of a split on all cores; `labels` are those that may occur, any if None."""
    findings = Findings(len(records.files), len(records))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="shard") as pool:
        shards = [np.flatnonzero(records.file == file) for file in range(len(records.files))]

        def look(numbers: np.ndarray) -> tuple[Counter[int], list[str]]:
            counted, problems = Counter[int](), []
            for number, outcome in zip(numbers, _outcomes(records, numbers, labels), strict=True):
                if isinstance(outcome, int):
                    counted[outcome] += 1
                else:
                    problems.append(f"{records.where(number)}: {outcome}")
                advance(1)
            return counted, problems

        try:
            for counted, problems in pool.map(look, shards):
                findings.labels += counted
                findings.problems += problems
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return findings


def _outcomes(records: Records, numbers: np.ndarray, labels: range | None) -> Iterator[int | str]:
    """Each record's label, or what is wrong with it."""
    for number in numbers:
        try:
            jpeg, label = records.stored(number)
            if labels is not None and label not in labels:
                raise ValueError(f"its label is {label}, and {labels[0]} to {labels[-1]} are allowed")
            images.check(jpeg)
            yield label
        except ValueError as error:
            yield str(error)
