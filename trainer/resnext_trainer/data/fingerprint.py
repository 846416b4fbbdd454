"""Fingerprint of a dataset: names, sizes and record counts of its files, relative to data.path. Reads no image.

The fingerprint excludes data.path and modification times, so a copy has the same fingerprint.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class Split(BaseModel):
    """The shards of a split, or its class folders."""

    model_config = ConfigDict(frozen=True)

    parts: int
    """Number of shards or class folders."""
    records: int
    digest: str
    """SHA-256 over the name, records and bytes of each part. The size of a class folder counts as 0, because
    computing it would require a stat call for each file."""

    def differs(self, other: "Split") -> str:
        """Describes the difference for a message; empty if the splits are equal."""
        if (self.parts, self.records) != (other.parts, other.records):
            return f"was {self}, is {other}"
        return f"was {self}, is {other} with different names or sizes" if self.digest != other.digest else ""

    def __str__(self) -> str:
        return f"{self.records:,} records in {self.parts:,} {'part' if self.parts == 1 else 'parts'}"


class Fingerprint(BaseModel):
    """Identifies a dataset, so that a resumed run can detect a different one."""

    model_config = ConfigDict(frozen=True)

    format: str
    splits: Mapping[str, Split]

    def differences(self, now: "Fingerprint") -> list[str]:
        """Differences from the dataset `now`, one message per split."""
        if self.format != now.format:
            return [f"dataset: format was {self.format}, is {now.format}"]
        found = []
        for name in sorted(self.splits.keys() | now.splits.keys()):
            before, after = self.splits.get(name), now.splits.get(name)
            if before is None or after is None:
                found.append(f"dataset.{name}: was {before or 'absent'}, is {after or 'absent'}")
            elif differs := before.differs(after):
                found.append(f"dataset.{name}: {differs}")
        return found


@dataclass(frozen=True)
class Part:
    """A shard or a class folder."""

    name: str
    records: int
    bytes: int = 0


class Partitioned(Protocol):
    """The part of a dataset that `of` needs."""

    def parts(self) -> list[Part]:
        """The shards or class folders; reads no image."""


def of(form: str, examples: Mapping[str, Partitioned], synthetic_images: int) -> Fingerprint:
    """Fingerprint of all splits. For synthetic data it covers the number of images only."""
    parts = {split: records.parts() for split, records in examples.items()}
    if form == "synthetic":
        parts = {"train": [Part("noise", synthetic_images)]}
    return Fingerprint(format=form, splits={split: _split(each) for split, each in parts.items()})


def _split(parts: list[Part]) -> Split:
    digest = hashlib.sha256()
    for part in sorted(parts, key=lambda each: each.name):
        # Each name is prefixed with its length, so that different parts cannot produce the same bytes.
        name = part.name.encode("utf-8", "surrogateescape")
        digest.update(b"%d %s %d %d\n" % (len(name), name, part.records, part.bytes))
    return Split(parts=len(parts), records=sum(part.records for part in parts), digest=digest.hexdigest())
