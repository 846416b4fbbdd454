"""A dashboard: variables, annotations, and rows of panels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    RowPanel,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.dashboard import Dashboard as Built
from grafana_foundation_sdk.models.dashboard import Panel as BuiltPanel

from hack.codegen.dashboards.panels import DATASOURCE, Panel, rows_are_full

TAG = "resnext"


@dataclass(frozen=True)
class Variable:
    """A variable with the values of a label."""

    name: str
    series: str
    """Selector of the series that have the label."""
    several: bool = False
    """Whether more than one value, and all, can be selected; queries match it with =~."""

    def build(self) -> QueryVariable:
        """The variable, with the values that exist in the selected time range."""
        variable = (
            QueryVariable(self.name)
            .label(self.name.capitalize())
            .datasource(DATASOURCE)
            .query(f"label_values({self.series}, {self.name})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.NATURAL_ASC)
        )
        return variable.multi(True).include_all(True).all_value(".+") if self.several else variable


class TimestampAnnotation(AnnotationQuery):
    """Marks the times that are the values of a series, in seconds. The SDK has no field for useValueForTime."""

    def __init__(self, name: str, series: str, color: str, text: str) -> None:
        super().__init__(name, DATASOURCE, icon_color=color, expr=f"1000 * {series}")
        self._text = text

    def to_json(self) -> dict[str, object]:
        """The annotation as Grafana stores it."""
        return {**super().to_json(), "useValueForTime": True, "titleFormat": self.name, "textFormat": self._text}


@dataclass(frozen=True)
class Section:
    """A row with a title, and its panels in reading order."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False
    """Collapsed rows load no data until a user expands them."""


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    sections: Sequence[Section]
    annotations: Sequence[TimestampAnnotation] = field(default=())

    def build(self) -> Built:
        """The dashboard in the types of the SDK, with positions and numbers of the panels."""
        board = (
            Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG])
            .time("now-1h", "now")
            .refresh("30s")
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .link(_other_dashboards())
            .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        )
        for variable in self.variables:
            board.with_variable(variable.build())
        for annotation in self.annotations:
            board.annotation(_Built(annotation))
        for section in self.sections:
            assert rows_are_full(section.panels), f"the panels of {section.title} do not fill their rows"
            row = Row(section.title).collapsed(section.collapsed)
            if section.collapsed:
                for panel in section.panels:
                    row.with_panel(panel)
                board.with_row(row)
            else:
                board.with_row(row)
                for panel in section.panels:
                    board.with_panel(panel)
        built = board.build()
        for number, each in enumerate(_all_panels(built), 1):
            each.id_val = number
        return built


class _Built(Builder[AnnotationQuery]):
    """A builder of an annotation that is already built."""

    def __init__(self, built: AnnotationQuery) -> None:
        self._built = built

    def build(self) -> AnnotationQuery:
        """The annotation."""
        return self._built


def _other_dashboards() -> DashboardLink:
    link = DashboardLink("ResNeXt dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).include_vars(True).keep_time(True)


def _all_panels(board: Built) -> list[BuiltPanel | RowPanel]:
    found: list[BuiltPanel | RowPanel] = []
    for each in board.panels or []:
        found += [each, *each.panels] if isinstance(each, RowPanel) else [each]
    return found
