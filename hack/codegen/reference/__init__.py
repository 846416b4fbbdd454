"""docs/reference: tables of everything that users and programs can set, read or query, made from the code."""

from pathlib import Path

from hack.codegen.reference import chart_values, exit_statuses, fields, metrics, reasons, settings

NOTICE = "<!-- Made by `make generate`; do not edit. -->\n"


def pages(chart: Path) -> dict[str, str]:
    """File name and content of each page."""
    texts = {
        "spec.md": fields.spec(),
        "status.md": fields.status(),
        "reasons.md": reasons.page(),
        "exit-statuses.md": exit_statuses.page(),
        "metrics.md": metrics.page(),
        "operator-settings.md": settings.page(),
        "chart-values.md": chart_values.page(chart),
    }
    return {name: NOTICE + text for name, text in texts.items()}
