"""Pictures of the dashboards' panels, without Grafana."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hack import panel_pictures
from hack.pictures import SHOWN

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def query_range(promql: str, begin: datetime, end: datetime) -> list[dict[str, Any]]:
    """Two series for queries by rank or phase, one for others, and none for GPUs."""
    if "DCGM" in promql or "gpu" in promql:
        return []
    values = [[begin.timestamp(), "0.5"], [end.timestamp() - 1, "NaN"], [end.timestamp(), "0.25"]]
    several = "by (rank)" in promql or "by (phase)" in promql
    labels = [{"rank": "0", "phase": "compute"}, {"rank": "1", "phase": "data_wait"}] if several else [{}]
    return [{"metric": each, "values": values} for each in labels]


def test_panels_are_read_with_legends_and_without_nan() -> None:
    """Times are relative to the start; variables of Grafana are replaced."""
    read = panel_pictures.read(
        "resnext-training", query_range, {"namespace": "lab"}, BEGIN, BEGIN + timedelta(seconds=9)
    )
    panels = {panel.title: panel for panel in read}
    assert panels["Throughput per rank"].series == {f"rank {rank}": [(0.0, 0.5), (9.0, 0.25)] for rank in (0, 1)}
    assert panels["Throughput per rank"].unit == "suffix:images/s"
    assert [*panels["Step time breakdown"].series] == ["compute", "data_wait"]
    assert panels["Step time breakdown"].stacked
    assert not any("GPU" in title for title in panels.keys() - {"Throughput per GPU"})


def test_picture_is_equal_for_equal_data() -> None:
    """Otherwise each `python -m hack.pictures` would change the file."""
    panels = panel_pictures.read("resnext-training", query_range, {}, BEGIN, BEGIN + timedelta(seconds=9), SHOWN)
    assert [panel.title for panel in panels] == [*SHOWN]
    first, second = (panel_pictures.svg(panel_pictures.figure("flowers", panels[:2])) for _ in range(2))
    assert first == second
