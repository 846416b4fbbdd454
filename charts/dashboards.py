"""The Grafana dashboard, as data: one line for each panel."""

import json
from typing import Any

_SELECT = '{namespace="$namespace",training="$training"}'
_RANK_0 = '{namespace="$namespace",training="$training",rank="0"}'
_WINDOW = "[$__rate_interval]"
_COLUMNS = 24

Panel = dict[str, Any]


def _panel(title: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries", width: int = 8) -> Panel:
    """queries: PromQL and the legend of its series."""
    targets = [
        {"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend} for i, (expr, legend) in enumerate(queries)
    ]
    return {
        "title": title,
        "type": kind,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": targets,
        "gridPos": {"w": width, "h": 4 if kind == "stat" else 8},
    }


def _row(title: str) -> Panel:
    return {"title": title, "type": "row", "collapsed": False, "panels": [], "gridPos": {"w": _COLUMNS, "h": 1}}


def _panels() -> list[Panel]:
    images = f"rate(resnext_train_images_total{_SELECT}{_WINDOW})"
    phases = f"rate(resnext_train_phase_seconds_total{_SELECT}{_WINDOW})"
    return [
        _row("Training $namespace/$training"),
        _panel("Images/s", "short", (f"resnext_training_images_per_second{_SELECT}", ""), kind="stat", width=6),
        _panel("Epoch", "short", (f"max(resnext_train_epoch{_SELECT})", ""), kind="stat", width=6),
        _panel("Top-1", "percentunit", (_accuracy("1"), ""), kind="stat", width=6),
        _panel("Top-5", "percentunit", (_accuracy("5"), ""), kind="stat", width=6),
        _panel("Images/s, in all", "short", (f"sum({images})", "all ranks")),
        _panel("Images/s of each rank", "short", (f"sum by (rank) ({images})", "rank {{rank}}")),
        _panel("Share of each step's time", "percentunit", (f"avg by (phase) ({phases})", "{{phase}}")),
        _panel("Loss", "short", (f"resnext_train_loss{_RANK_0}", "loss")),
        _panel("Accuracy", "percentunit", (f"resnext_train_eval_accuracy_ratio{_RANK_0}", "top-{{k}}")),
        _panel("Learning rate", "short", (f"resnext_train_learning_rate{_RANK_0}", "learning rate")),
        _panel("Epoch over time", "short", (f"max(resnext_train_epoch{_SELECT})", "epoch")),
        _panel(
            "Step duration",
            "s",
            *(
                (
                    f"histogram_quantile({share}, sum by (le) "
                    f"(rate(resnext_train_step_duration_seconds_bucket{_SELECT}{_WINDOW})))",
                    name,
                )
                for share, name in ((0.5, "median"), (0.99, "99 %"))
            ),
        ),
        _panel(
            "Checkpoints that failed, steps that were not finite",
            "short",
            (f"sum(resnext_train_checkpoint_failures_total{_SELECT})", "checkpoints failed"),
            (f"sum by (cause) (resnext_train_nonfinite_steps_total{_SELECT})", "{{cause}}"),
        ),
        _row("Operator"),
        _panel(
            "Time to look at a training",
            "s",
            (
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(resnext_operator_reconcile_duration_seconds_bucket{_WINDOW})))",
                "95 %",
            ),
        ),
        _panel("Trainings that wait to be looked at", "short", ("sum(resnext_operator_queue_depth)", "waiting")),
        _panel(
            "Requests to the API server",
            "reqps",
            (f"sum by (verb, code) (rate(resnext_operator_api_requests_total{_WINDOW}))", "{{verb}} {{code}}"),
        ),
    ]


def _accuracy(k: str) -> str:
    return f'resnext_training_accuracy_ratio{{namespace="$namespace",training="$training",k="{k}"}}'


def _placed(panels: list[Panel]) -> list[Panel]:
    """Left to right, then the next line."""
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        place = panel["gridPos"]
        if x + place["w"] > _COLUMNS:
            x, y, height = 0, y + height, 0
        panel |= {"id": number, "gridPos": {**place, "x": x, "y": y}}
        x, height = x + place["w"], max(height, place["h"])
    return panels


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def resnext() -> str:
    """The dashboard as Grafana loads it."""
    steps = "resnext_train_steps_total"
    dashboard = {
        "title": "ResNeXt trainings",
        "uid": "resnext-trainings",
        "tags": ["resnext"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("namespace", "Namespace", f"label_values({steps}, namespace)"),
                _variable("training", "Training", f'label_values({steps}{{namespace="$namespace"}}, training)'),
            ]
        },
        "panels": _placed(_panels()),
    }
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
