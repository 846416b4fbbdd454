"""What a benchmark found: ratios with their goals, the numbers behind them, and where they were measured."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from resnext_trainer.training import benchmark


@dataclass(frozen=True)
class Ratio:
    """One number to judge by, from one run."""

    of: str
    """What was divided by what."""
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def goal(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def met(self) -> bool | None:
        """Whether it is what it should be; None where nothing was asked."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


@dataclass(frozen=True)
class Result:
    """All that one benchmark has to tell."""

    name: str
    ratios: tuple[Ratio, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, as it was: every round of it."""


def write(result: Result, folder: Path) -> Path:
    """The result as JSON, with versions and hardware, in a file of its own."""
    now = datetime.now(UTC)
    facts = {
        **asdict(result),
        "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in result.ratios],
        "time": now.isoformat(timespec="seconds"),
        # A busy machine makes a bad benchmark, and only this tells of it afterwards.
        "loadBefore": os.getloadavg(),
        "versions": benchmark.versions(),
        "hardware": benchmark.hardware(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{now:%Y%m%d-%H%M%S}-{result.name}.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    return file


def row(ratio: Ratio) -> tuple[str, str, str, str]:
    """A ratio for people: what, how much, what it should be, and whether it is."""
    judged = {True: "met", False: "missed", None: ""}[ratio.met]
    return ratio.of, f"{ratio.value:.3g}", ratio.goal, judged
