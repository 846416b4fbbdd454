"""Scrape targets of Prometheus."""

import runpy
from pathlib import Path

DISCOVER = runpy.run_path(str(Path(__file__).parents[3] / "images" / "monitoring" / "discover"))


def pod(name: str, address: str | None, ports: dict[str, int], **labels: str) -> dict[str, object]:
    listed = [{"name": port, "containerPort": number} for port, number in ports.items()]
    return {
        "metadata": {"name": name, "namespace": "demo", "labels": labels},
        "spec": {"containers": [{"ports": listed}, {}]},
        "status": {"podIP": address} if address else {},
    }


def test_metrics_ports_are_targets_with_training_label():
    """Every port whose name begins with metrics is a target."""
    worker = pod(
        "w", "10.0.0.1", {"metrics-0": 9430, "metrics-1": 9431, "ssh": 2222}, **{"resnext.dev/training": "flowers"}
    )
    labels = {"namespace": "demo", "pod": "w", "training": "flowers"}
    assert DISCOVER["targets"]([worker]) == [
        {"targets": ["10.0.0.1:9430"], "labels": labels},
        {"targets": ["10.0.0.1:9431"], "labels": labels},
    ]


def test_pod_without_address_or_training_is_handled():
    """A pod without an address is skipped; a missing training label is omitted."""
    pods = [pod("starting", None, {"metrics": 9400}), pod("operator", "10.0.0.2", {"metrics": 9400})]
    assert DISCOVER["targets"](pods) == [
        {"targets": ["10.0.0.2:9400"], "labels": {"namespace": "demo", "pod": "operator"}}
    ]
