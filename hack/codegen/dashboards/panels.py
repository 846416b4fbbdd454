"""Panels with a description, a unit, a legend and, if there are limits, thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, DynamicConfigValue, Threshold, ThresholdsMode

DATASOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
IMAGES_PER_SECOND = "suffix:images/s"
COUNT = "short"
"""Unit of whole numbers."""
COLUMNS = 24


class Query(NamedTuple):
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Limits:
    """Values from which a panel shows a warning and an error; `below` if lower values are worse."""

    warning: float
    error: float
    below: bool = False

    def thresholds(self) -> ThresholdsConfig:
        """Colors from the lowest value upwards."""
        low, middle, high = (
            (Threshold(None, "red"), Threshold(self.error, "orange"), Threshold(self.warning, "green"))
            if self.below
            else (Threshold(None, "green"), Threshold(self.warning, "orange"), Threshold(self.error, "red"))
        )
        return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([low, middle, high])


_NO_LIMITS = ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(None, "green")])
Panel = stat.Panel | timeseries.Panel


def value(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    limits: Limits | None = None,
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    shows: Literal["value", "name"] = "value",
) -> Panel:
    """The latest value of a series, or its name for series that carry information in their labels."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(height)
        .with_target(_target(0, query).instant())
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .text_mode(BigValueTextMode.NAME if shows == "name" else BigValueTextMode.VALUE)
        .thresholds(limits.thresholds() if limits else _NO_LIMITS)
    )
    return panel if decimals is None else panel.decimals(decimals)


def curves(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits | None = None,
    stacked: bool = False,
    maximum: float | None = None,
    from_zero: bool = True,
    width: int = 8,
    colors: Mapping[str, str] | None = None,
) -> Panel:
    """Series over time; limits are dashed lines. colors: of the series with these legends."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .targets([_target(number, query) for number, query in enumerate(queries)])
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .thresholds(limits.thresholds() if limits else _NO_LIMITS)
    )
    if limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    for legend, color in (colors or {}).items():
        panel.override_by_name(legend, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})])
    if unit == COUNT:
        # Otherwise the axis of a small count has fractions, and that of a constant zero ends at 100.
        panel.decimals(0).axis_soft_max(1)
    if from_zero:
        panel.min(0)
    return panel if maximum is None else panel.max(maximum)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
    return legend.placement(LegendPlacement.BOTTOM).show_legend(True)


def _target(number: int, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(chr(ord("A") + number)).datasource(DATASOURCE)
    return target.expr(query.expr).legend_format(query.legend)


def rows_are_full(panels: Sequence[Panel]) -> bool:
    """Whether the panels fill whole rows of the grid, so that no panel overlaps another."""
    used = 0
    for panel in panels:
        place = panel.build().grid_pos
        assert place is not None
        used += place.w
        if used > COLUMNS:
            return False
        used %= COLUMNS
    return used == 0
