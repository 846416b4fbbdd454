"""HTML report of a run, from the log.jsonl next to its checkpoints: loss, accuracy, throughput and time by phase.

The page is self-contained: charts are inline SVG.
"""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any

from resnext_trainer.checkpoint import runs
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

LOG = "log.jsonl"

_RENAMED = {"plainTop1": "rawTop1", "plainTop5": "rawTop5"}
"""Keys written by earlier versions."""

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 12, 12, 28
"""Margins of a chart in pixels, which contain the scales."""

_GREATEST, _LATEST = 1e300, 1e11
"""Maximum of plotted values, and of Unix times (year 5138)."""

_POINTS = 1000
"""Maximum number of points per line: a chart has fewer pixels, and a long run has 100,000 records."""

# The palette of Okabe and Ito, which color-blind readers can distinguish.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000", "#f0e442")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2em auto; padding: 0 1em; color: #222 }
h2 { font-size: 1.1em; margin: 1.6em 0 .3em } td { padding-right: 2em } svg { width: 100%; height: auto }
text { font: 12px system-ui, sans-serif; fill: #555 } .grid { stroke: #ddd } polyline { fill: none; stroke-width: 1.5 }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em }
"""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class LogRecord:
    """A line of the log."""

    step: int
    epoch: float
    time: float | None
    values: Mapping[str, float]
    """Finite values by key: loss, imagesPerSecond, learningRate, top1 and so on."""
    phase_fractions: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the time since the previous record spent in each phase."""


@dataclass(frozen=True)
class RunHistory:
    """Records of a run, ordered by step, and the number of unreadable lines."""

    entries: Sequence[LogRecord]
    unreadable: int

    def points(self, name: str) -> Points:
        """(epoch, value) of all records that contain the value."""
        return [(entry.epoch, entry.values[name]) for entry in self.entries if name in entry.values]


def read(path: Path) -> RunHistory:
    """Reads a log file, or the log in a directory; skips unreadable lines. Raises TrainingError without any record."""
    file = runs.located(path) / LOG if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise _refused(f"{file} does not exist: pass the checkpoint directory of a run, or its {LOG}") from None
    entries = {}
    for line in lines:
        if (entry := _record(line)) is not None:
            entries[entry.step] = entry  # a resumed run repeats steps
    if not entries:
        raise _refused(f"{file} contains no records of a training")
    unreadable = sum(1 for line in lines if line.strip() and _record(line) is None)
    return RunHistory([entries[step] for step in sorted(entries)], unreadable)


def render(log: RunHistory, title: str) -> str:
    """Renders the page as HTML."""
    charts = (
        ("Loss", {"training loss": log.points("loss")}, "{:g}"),
        (
            "Validation accuracy",
            {
                "top-1": log.points("top1"),
                "top-5": log.points("top5"),
                "top-1 without averaging": log.points("rawTop1"),
                "top-5 without averaging": log.points("rawTop5"),
            },
            "{:.4g}",
        ),
        ("Images per second", {"all ranks": log.points("imagesPerSecond")}, "{:,.10g}"),
        ("Learning rate", {"learning rate": log.points("learningRate")}, "{:g}"),
    )
    parts = [f"<h1>{escape(title)}</h1>", _table(_summary(log))]
    parts += [_chart(name, series, form) for name, series, form in charts]
    parts.append(_phase_breakdown(phase_fractions(log.entries)))
    head = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    return f"{head}\n<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"


def phase_fractions(entries: Sequence[LogRecord]) -> dict[str, float]:
    """Fraction of the run spent in each phase, in descending order: mean over the records, weighted by duration."""
    weights = [
        later.time - earlier.time if later.time is not None and earlier.time is not None else 1.0
        for earlier, later in itertools.pairwise(entries)
    ]
    # Limit each record to ten times the median duration, because the time between two attempts belongs to no phase.
    usual = statistics.median(weights) if weights else 1.0
    weights = [min(max(weight, 0.0), 10 * usual) for weight in (usual, *weights)]
    sums: dict[str, float] = {}
    for entry, weight in zip(entries, weights, strict=True):
        for phase, share in entry.phase_fractions.items():
            sums[phase] = sums.get(phase, 0.0) + weight * share
    counted = sum(weight for entry, weight in zip(entries, weights, strict=True) if entry.phase_fractions)
    return {phase: sums[phase] / (counted or 1.0) for phase in sorted(sums, key=lambda name: -sums[name])}


def _record(line: str) -> LogRecord | None:
    try:
        written = json.loads(line)
        step, epoch = int(written["step"]), float(written["epoch"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if step < 0 or not math.isfinite(epoch):
        return None
    known = {_RENAMED.get(name, name): float(value) for name, value in written.items() if _is_number(value)}
    found = written.get("phaseFractions", written.get("shares"))
    parts = {str(name): float(share) for name, share in found.items() if _is_number(share)} if _is_map(found) else {}
    time = known.get("time", -1.0)
    return LogRecord(step, epoch, time if 0 <= time < _LATEST else None, known, parts)


def _is_number(value: Any) -> bool:
    # Compare without conversion: an integer may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _GREATEST


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _summary(log: RunHistory) -> dict[str, str]:
    last = log.entries[-1]
    facts = {"epochs": f"{last.epoch:.2f}", "steps": f"{last.step:,}"}
    if top1 := log.points("top1"):
        epoch, best = max(top1, key=lambda point: point[1])
        facts["best top-1"] = f"{best:.2%} after epoch {epoch:.2f}"
    if loss := log.points("loss"):
        facts["last loss"] = f"{loss[-1][1]:.4g}"
    if speed := log.points("imagesPerSecond"):
        facts["images per second, median"] = f"{statistics.median(value for _, value in speed):,.4g}"
    times = [entry.time for entry in log.entries if entry.time is not None]
    if len(times) > 1:
        facts["from first to last entry"] = str(timedelta(seconds=round(max(times) - min(times))))
    if log.unreadable:
        facts["unreadable lines"] = f"{log.unreadable:,}"
    return facts


def _table(facts: Mapping[str, str]) -> str:
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f"<table>{''.join(rows)}</table>"


def _chart(name: str, series: Mapping[str, Points], form: str) -> str:
    """Line chart over the epochs; "not recorded" if there are no points."""
    heading = f"<h2>{escape(name)}</h2>"
    drawn = {label: _downsample(points) for label, points in series.items() if points}
    if not drawn:
        return f"{heading}<p>not recorded</p>"
    every = [point for points in drawn.values() for point in points]
    across, place_x = _scale([x for x, _ in every], _LEFT, _WIDTH - _RIGHT)
    up, place_y = _scale([y for _, y in every], _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">']
    for tick in up:
        y = f"{place_y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y}" dy=".35em" text-anchor="end">{form.format(tick)}</text>')
    for tick in across:
        parts.append(f'<text x="{place_x(tick):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{tick:g}</text>')
    for color, points in zip(_COLORS, drawn.values(), strict=False):
        places = [(place_x(x), place_y(y)) for x, y in points]
        parts.append(f'<polyline stroke="{color}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        if len(places) < 50:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in places]
    legend = "".join(_legend_entry(color, label) for color, label in zip(_COLORS, drawn, strict=False))
    return f"{heading}<div>{legend}</div>{''.join(parts)}</svg>"


def _phase_breakdown(phases: Mapping[str, float]) -> str:
    """Stacked bar of the phases."""
    heading = "<h2>Time by phase</h2>"
    if not phases:
        return f"{heading}<p>not recorded</p>"
    parts, at, whole = [], 0.0, max(1.0, sum(phases.values()))
    for color, share in zip(_COLORS, phases.values(), strict=False):
        width = share / whole * _WIDTH
        parts.append(f'<rect x="{at:.1f}" width="{width:.1f}" height="28" fill="{color}"/>')
        at += width
    legend = "".join(
        _legend_entry(color, f"{phase} {share:.1%}")
        for color, (phase, share) in zip(_COLORS, phases.items(), strict=False)
    )
    return f'{heading}<svg viewBox="0 0 {_WIDTH} 28" role="img" aria-label="Time">{"".join(parts)}</svg>{legend}'


def _legend_entry(color: str, label: str) -> str:
    return f'<span class="key" style="background: {color}"></span>{escape(label)}'


def _downsample(points: Points) -> Points:
    """Averages neighboring points, so that at most `_POINTS` remain."""
    together = -(-len(points) // _POINTS)
    groups = (points[start : start + together] for start in range(0, len(points), together))
    return [(statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group)) for group in groups]


def _scale(values: Iterable[float], start: float, end: float) -> tuple[list[float], Callable[[float], float]]:
    """Round tick values within the range of the values, and the function from a value to its pixel."""
    known = list(values)
    least, greatest = min(known), max(known)
    if least == greatest:
        least, greatest = least - (abs(least) or 1.0) / 2, greatest + (abs(greatest) or 1.0) / 2
    rough = (greatest - least) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    ticks = [number * step for number in range(math.ceil(least / step), math.floor(greatest / step) + 1)]
    return ticks, lambda value: start + (value - least) / (greatest - least) * (end - start)


def _refused(message: str) -> TrainingError:
    return TrainingError(ExitStatus.INVALID_DATA, message)
