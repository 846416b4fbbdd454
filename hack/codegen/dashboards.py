"""The Grafana dashboard."""

import json
from typing import Any

_SELECT = '{namespace="$namespace",training="$training"}'
_RANK_0 = '{namespace="$namespace",training="$training",rank="0"}'
_WINDOW = "[$__rate_interval]"
_COLUMNS = 24
_INFO = "{{architecture}}, {{precision}}, XLA {{xla}}, {{pipeline}}, {{world_size}} x {{device}}"

Panel = dict[str, Any]


def _panel(title: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries", width: int = 8) -> Panel:
    """queries: PromQL expressions with their legends."""
    targets = [
        {"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend} for i, (expr, legend) in enumerate(queries)
    ]
    return {
        "title": title,
        "type": kind,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": targets,
        "gridPos": {"w": width, "h": 4 if kind == "stat" and width == 6 else 8},
        # Panels without a unit show labels, so they display the name of the series.
        **({"options": {"textMode": "name"}} if unit == "none" else {}),
    }


def _row(title: str) -> Panel:
    return {"title": title, "type": "row", "collapsed": False, "panels": [], "gridPos": {"w": _COLUMNS, "h": 1}}


def _panels() -> list[Panel]:
    images = f"rate(resnext_trainer_images_total{_SELECT}{_WINDOW})"
    phases = f"rate(resnext_trainer_phase_seconds_total{_SELECT}{_WINDOW})"
    return [
        _row("Training $namespace/$training"),
        _panel("Images/s", "short", (f"resnext_training_images_per_second{_SELECT}", ""), kind="stat", width=6),
        _panel("Epoch", "short", (f"max(resnext_trainer_epoch{_SELECT})", ""), kind="stat", width=6),
        _panel("Top-1", "percentunit", (_accuracy("1"), ""), kind="stat", width=6),
        _panel("Top-5", "percentunit", (_accuracy("5"), ""), kind="stat", width=6),
        _panel("Total throughput (images/s)", "short", (f"sum({images})", "all ranks")),
        _panel("Throughput per rank", "short", (f"sum by (rank) ({images})", "rank {{rank}}")),
        _panel("Step time breakdown", "percentunit", (f"avg by (phase) ({phases})", "{{phase}}")),
        _panel("Loss", "short", (f"resnext_trainer_loss{_RANK_0}", "loss")),
        _panel("Accuracy", "percentunit", (f"resnext_trainer_eval_accuracy_ratio{_RANK_0}", "top-{{k}}")),
        _panel("Learning rate", "short", (f"resnext_trainer_learning_rate{_RANK_0}", "learning rate")),
        _panel("Epoch", "short", (f"max(resnext_trainer_epoch{_SELECT})", "epoch")),
        _panel(
            "Step duration",
            "s",
            *(
                (
                    f"histogram_quantile({share}, sum by (le) "
                    f"(rate(resnext_trainer_step_duration_seconds_bucket{_SELECT}{_WINDOW})))",
                    name,
                )
                for share, name in ((0.5, "p50"), (0.99, "p99"))
            ),
        ),
        _panel("Time since the last step", "s", (_age("last_step"), "last step")),
        _panel("Training info", "none", (f"resnext_trainer_info{_RANK_0}", _INFO), kind="stat"),
        _row("Health (expected 0, except fp16 overflows)"),
        _panel("Non-finite steps", "short", (_sum("nonfinite_steps_total", "cause"), "{{cause}}")),
        _panel("Loss scale (fp16)", "short", (f"resnext_trainer_loss_scale{_RANK_0}", "loss scale")),
        _panel("Rollbacks", "short", (_sum("rollbacks_total", "rank", _RANK_0), "rollbacks")),
        _panel("Bad records skipped", "short", (_sum("bad_records_total", "rank"), "rank {{rank}}")),
        _panel(
            "Failed writes",
            "short",
            (_sum("checkpoint_failures_total", "rank", _RANK_0), "checkpoints"),
            (_sum("log_write_failures_total", "rank", _RANK_0), "log"),
        ),
        _panel("Time since the last checkpoint", "s", (_age("checkpoint_last_success"), "last checkpoint")),
        _row("Operator"),
        _panel(
            "Reconcile duration (p95)",
            "s",
            (
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(resnext_operator_reconcile_duration_seconds_bucket{_WINDOW})))",
                "p95",
            ),
        ),
        _panel("Work queue depth", "short", ('sum(workqueue_depth{name="resnexttraining"})', "waiting")),
        _panel(
            "API server requests",
            "reqps",
            (f"sum by (verb, code) (rate(resnext_operator_api_requests_total{_WINDOW}))", "{{verb}} {{code}}"),
        ),
        _panel("Trainings by phase", "short", ("sum by (phase) (resnext_operator_trainings)", "{{phase}}")),
        _panel(
            "Finished attempts by cause",
            "short",
            ("sum by (cause) (resnext_operator_attempts_finished_total)", "{{cause}}"),
        ),
        _panel("Reconcile errors", "short", ("sum(resnext_operator_reconcile_errors_total)", "failed")),
        _panel(
            "Leaders",
            "short",
            ('sum(leader_election_master_status{name="resnext-operator"})', "leading"),
        ),
        _panel(
            "Skipped objects by loop",
            "short",
            ("sum by (loop) (resnext_operator_skipped_objects_total)", "{{loop}}"),
        ),
        _panel(
            "Time to first step (p95)",
            "s",
            (
                "histogram_quantile(0.95, sum by (le) (resnext_operator_time_to_first_step_seconds_bucket))",
                "p95",
            ),
        ),
    ]


def _sum(name: str, by: str, select: str = _SELECT) -> str:
    """A counter since the start of the attempt."""
    return f"sum by ({by}) (resnext_trainer_{name}{select})"


def _age(name: str) -> str:
    return f"time() - max(resnext_trainer_{name}_timestamp_seconds{_SELECT})"


def _accuracy(k: str) -> str:
    return f'resnext_training_accuracy_ratio{{namespace="$namespace",training="$training",k="{k}"}}'


def _placed(panels: list[Panel]) -> list[Panel]:
    """Place the panels from left to right in rows."""
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
    """The dashboard as JSON."""
    steps = "resnext_trainer_steps_total"
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
