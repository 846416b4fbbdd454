"""What a dataset is, without reading an image: the names, sizes and record counts of its files, relative to data.path.

Neither the place of the dataset nor the times of its files are part of it: a copy has the same fingerprint.
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
    """How many shards, or class folders."""
    records: int
    digest: str
    """Of each part's name, records and bytes; classes have no bytes, because they would have to be read."""

    def differs(self, other: "Split") -> str:
        """What is not the same, for a message; empty if nothing differs."""
        if (self.parts, self.records) != (other.parts, other.records):
            return f"was {self}, is {other}"
        return f"was {self}, is {other} of other names or sizes" if self.digest != other.digest else ""

    def __str__(self) -> str:
        return f"{self.records:,} records in {self.parts:,} {'part' if self.parts == 1 else 'parts'}"


class Fingerprint(BaseModel):
    """A dataset, as far as a run must find the same one again."""

    model_config = ConfigDict(frozen=True)

    format: str
    splits: Mapping[str, Split]

    def differences(self, now: "Fingerprint") -> list[str]:
        """What differs from now's dataset, one sentence each."""
        if self.format != now.format:
            return [f"dataset: was of format {self.format}, is of format {now.format}"]
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
    """A shard, or a class folder."""

    name: str
    records: int
    bytes: int = 0


class Partitioned(Protocol):
    """As much of a split's dataset as its fingerprint is made of."""

    def parts(self) -> list[Part]:
        """The shards or class folders; reads no image."""


def of(form: str, examples: Mapping[str, Partitioned], synthetic_images: int) -> Fingerprint:
    """The fingerprint of the pictures of each split; of synthetic data, which has none, the number of images."""
    parts = {split: records.parts() for split, records in examples.items()}
    if form == "synthetic":
        parts = {"train": [Part("noise", synthetic_images)]}
    return Fingerprint(format=form, splits={split: _split(each) for split, each in parts.items()})


def _split(parts: list[Part]) -> Split:
    digest = hashlib.sha256()
    for part in sorted(parts, key=lambda each: each.name):
        # A length before each name: no other names and numbers make the same bytes.
        name = part.name.encode("utf-8", "surrogateescape")
        digest.update(b"%d %s %d %d\n" % (len(name), name, part.records, part.bytes))
    return Split(parts=len(parts), records=sum(part.records for part in parts), digest=digest.hexdigest())
