"""Validates every record: checksums, label, and whether the image can be decoded."""

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from resnext_trainer.data import image_codec
from resnext_trainer.data.image_dataset import ImageDataset
from resnext_trainer.data.problem_summary import Summary
from resnext_trainer.errors import system_errors
from resnext_trainer.runtime import cpus

MOST_CLASSES = 100_000
"""Maximum of model.classes; greater labels are out of range."""

_CLAUSE = re.compile(r"[:;,] ")
_LABELS = "records with a label out of range"


@dataclass
class ValidationResult:
    """Contents and problems of a split."""

    shards: int
    records: int
    labels: Counter[int] = field(default_factory=Counter)
    """Valid records by label, as stored."""
    problems: Summary = field(default_factory=Summary)
    least: int | None = None
    greatest: int | None = None
    """Smallest and greatest label, including those out of range."""

    def count(self, label: int) -> None:
        """Updates `least` and `greatest`."""
        self.least = label if self.least is None else min(self.least, label)
        self.greatest = label if self.greatest is None else max(self.greatest, label)

    def merge(self, other: "ValidationResult") -> None:
        """Adds the result of another part of the split."""
        self.labels += other.labels
        self.problems.merge(other.problems)
        for label in (other.least, other.greatest):
            if label is not None:
                self.count(label)

    def advice(self, first: int, classes: int | None) -> str | None:
        """The setting to change if labels are out of range; None if they are in range."""
        if self.least is None or self.greatest is None:
            return None
        most = classes or MOST_CLASSES
        if first <= self.least and self.greatest < first + most:
            return None
        found = f"labels are {self.least} to {self.greatest}"
        other = 1 - first
        if other <= self.least and self.greatest < other + most:
            return f"{found}: set data.firstLabel to {other} (here --first-label {other})"
        if self.least >= 0 and self.greatest < MOST_CLASSES:
            start = min(self.least, 1)
            needed = f"model.classes to at least {self.greatest + 1 - start} (here --classes)"
            return (
                f"{found}: set data.firstLabel to {start} and {needed}" if start != first else f"{found}: set {needed}"
            )
        return f"{found}: set data.labelFeature to the feature that contains class numbers starting at 0 or 1"


def validate(
    records: ImageDataset, first: int, classes: int | None, advance: Callable[[int], None] = lambda _: None
) -> ValidationResult:
    """Reads a whole split on all cores; valid labels are `first` to `first + classes - 1`.

    Raises TrainingError for operating-system errors; all other problems are part of the result.
    """
    groups = records.groups
    allowed = range(first, first + (classes or MOST_CLASSES))
    findings = ValidationResult(len(groups), len(records))

    def look(numbers: np.ndarray) -> ValidationResult:
        part = ValidationResult(1, len(numbers))
        for number in map(int, numbers):
            try:
                with system_errors(records.location(number)):
                    jpeg, label = records.read_record(number)
                    part.count(label)
                    if label not in allowed:
                        part.problems.add(_LABELS, f"{records.location(number)}: {_label(label, allowed)}")
                    else:
                        image_codec.check(jpeg)
                        part.labels[label] += 1
            except ValueError as error:
                # Examples show only the first clause of the message; the cause contains the advice.
                clause = _CLAUSE.split(str(error), maxsplit=1)[0]
                part.problems.add(f"records: {error}", f"{records.location(number)}: {clause}")
            advance(1)
        return part

    with ThreadPoolExecutor(cpus.per_rank(), thread_name_prefix="shard") as pool:
        try:
            for part in pool.map(look, groups):
                findings.merge(part)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return findings


def _label(label: int, allowed: range) -> str:
    return f"label {label} is not in {allowed[0]} to {allowed[-1]}"
