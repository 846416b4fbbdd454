"""Results of a benchmark: ratios with goals, the measured values, and the hardware."""

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
    """A ratio of two measured values, with an optional goal."""

    of: str
    """Description of the ratio."""
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
        """Whether the goal was met; None if there is no goal."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


@dataclass(frozen=True)
class Result:
    """The result of one benchmark."""

    name: str
    ratios: tuple[Ratio, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """The output of every round."""


def write(result: Result, folder: Path) -> Path:
    """Write the result as JSON, with versions and hardware; returns the path of the file."""
    now = datetime.now(UTC)
    facts = {
        **asdict(result),
        "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in result.ratios],
        "time": now.isoformat(timespec="seconds"),
        # Shows whether other processes were running.
        "loadBefore": os.getloadavg(),
        "versions": benchmark.versions(),
        "hardware": benchmark.hardware(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{now:%Y%m%d-%H%M%S}-{result.name}.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")
    return file


def row(ratio: Ratio) -> tuple[str, str, str, str]:
    """Table row of a ratio: description, value, goal and result."""
    judged = {True: "met", False: "missed", None: ""}[ratio.met]
    return ratio.of, f"{ratio.value:.3g}", ratio.goal, judged
