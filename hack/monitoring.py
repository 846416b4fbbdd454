"""The Prometheus of the demo and the end-to-end tests, with the chart's rules."""

import hashlib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "charts" / "resnext-operator" / "files" / "rules" / "resnext.yaml"


def manifests(image: str) -> str:
    """The manifests with an image, the rules, and an annotation that restarts Prometheus when the rules change."""
    text = (ROOT / "images" / "monitoring" / "prometheus.yaml").read_text(encoding="utf-8")
    rules = RULES.read_text(encoding="utf-8")
    objects = list(yaml.safe_load_all(text.replace("image: resnext-monitoring", f"image: {image}")))
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "prometheus-rules", "namespace": "monitoring"},
        "data": {RULES.name: rules},
    }
    for each in objects:
        if each["kind"] == "Deployment":
            checksum = hashlib.sha256(rules.encode()).hexdigest()[:16]
            each["spec"]["template"]["metadata"]["annotations"] = {"resnext.dev/rules": checksum}
    # Before the Deployment, whose pod would otherwise start without rules.
    return yaml.safe_dump_all([*objects[:-1], config_map, objects[-1]], sort_keys=False)
