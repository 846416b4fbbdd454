"""Queries of the dashboards and rules in the chart."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from hack.monitoring import RULES

DASHBOARDS = sorted((RULES.parents[1] / "dashboards").glob("*.json"))
GPU_ROW = "GPUs"


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel with queries, including those of collapsed rows; `row` is the title of its row."""
    row = ""
    for each in dashboard["panels"]:
        if each["type"] == "row":
            row = each["title"]
            yield from ({**panel, "row": row} for panel in each["panels"])
        else:
            yield {**each, "row": row}


def dashboard_queries(namespace: str, training: str, operator: str, *, gpus: bool = False) -> list[str]:
    """The queries of all panels and annotations; without `gpus`, except those of GPU panels.

    operator: the namespace of the operator.
    """
    found = []
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        queries = [each["expr"] for each in dashboard["annotations"].get("list", []) if "expr" in each]
        for panel in panels(dashboard):
            if gpus or panel["row"] != GPU_ROW:
                queries += [target["expr"] for target in panel["targets"]]
        values = {
            "namespace": operator if dashboard["uid"] == "resnext-operator" else namespace,
            "training": training,
            "rank": ".+",
            "__rate_interval": "5m",
        }
        found += [substitute(query, values) for query in queries]
    return found


def substitute(query: str, values: dict[str, str]) -> str:
    """The query with the values of Grafana's variables."""
    for name, value in values.items():
        query = query.replace(f"${name}", value)
    return query


def recording_rules() -> list[str]:
    """The series that recording rules write."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
