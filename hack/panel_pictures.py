"""Draws panels of a dashboard from Prometheus' data, without Grafana."""

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt  # after the choice of its backend
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DASHBOARDS = Path(__file__).resolve().parents[1] / "charts" / "resnext-operator" / "files" / "dashboards"
COLUMNS = 3
Samples = list[tuple[float, float]]
QueryRange = Callable[[str, datetime, datetime], list[dict[str, Any]]]
"""The series that a PromQL query returns between two times, as in the API of Prometheus."""
_AXES = {
    "percentunit": ("%", 100),
    "percent": ("%", 1),
    "s": ("s", 1),
    "bytes": ("MiB", 2**-20),
    "Bps": ("MiB/s", 2**-20),
}


@dataclass(frozen=True)
class Curves:
    """The data of one panel."""

    title: str
    unit: str
    stacked: bool
    series: Mapping[str, Samples]
    """Samples of each series: seconds since the start, and value."""


def read(
    dashboard: str,
    query_range: QueryRange,
    variables: Mapping[str, str],
    begin: datetime,
    end: datetime,
    titles: Sequence[str] = (),
) -> list[Curves]:
    """The time series panels of a dashboard that have data, or those with the given titles, in that order."""
    board = json.loads((DASHBOARDS / f"{dashboard}.json").read_text(encoding="utf-8"))
    rows = [each.get("panels") or [each] for each in board["panels"]]
    panels = {panel["title"]: panel for row in rows for panel in row if panel["type"] == "timeseries"}
    drawn = [_curves(panels[title], query_range, variables, begin, end) for title in titles or panels]
    return [each for each in drawn if each.series]


def figure(title: str, panels: Sequence[Curves]) -> Figure:
    """The panels in three columns over the same time axis."""
    plt.rcParams |= {"svg.hashsalt": "resnext", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    rows = -(-len(panels) // COLUMNS)
    drawing, places = plt.subplots(
        rows, COLUMNS, figsize=(4 * COLUMNS, 2.4 * rows), layout="constrained", sharex=True, squeeze=False
    )
    drawing.suptitle(title)
    for axes, panel in zip(places.flat, panels, strict=False):
        _draw(axes, panel)
    for axes in places.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in places[-1]:
        axes.set_xlabel("seconds since kubectl apply")
    return drawing


def svg(drawing: Figure) -> str:
    """The figure as SVG, equal for equal data."""
    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _curves(
    panel: dict[str, Any], query_range: QueryRange, variables: Mapping[str, str], begin: datetime, end: datetime
) -> Curves:
    series: dict[str, Samples] = {}
    for target in panel["targets"]:
        query: str = target["expr"]
        for name, value in variables.items():
            query = query.replace(f"${name}", value)
        for found in query_range(query, begin, end):
            legend = _legend(target["legendFormat"], found["metric"])
            samples = [(float(time) - begin.timestamp(), float(value)) for time, value in found["values"]]
            series[legend] = [(time, value) for time, value in samples if not math.isnan(value)]
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    return Curves(panel["title"], defaults["unit"], stacked, {name: each for name, each in series.items() if each})


def _legend(template: str, labels: Mapping[str, str]) -> str:
    """The legend of a series, in which {{label}} stands for the value of a label."""
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), template)


def _draw(axes: Axes, panel: Curves) -> None:
    unit, factor = _AXES.get(panel.unit, (panel.unit.removeprefix("suffix:"), 1))
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.set_ylabel("" if unit in ("none", "short") else unit)
    if panel.stacked:
        times = sorted({time for samples in panel.series.values() for time, _ in samples})
        heights = [dict(samples) for samples in panel.series.values()]
        axes.stackplot(
            times, [[factor * each.get(time, 0.0) for time in times] for each in heights], labels=panel.series
        )
    else:
        for legend, samples in panel.series.items():
            axes.plot([time for time, _ in samples], [factor * value for _, value in samples], label=legend)
    axes.set_ylim(bottom=0)
    if len(panel.series) > 1:
        axes.legend(fontsize=6, loc="best", frameon=False, ncols=2)
