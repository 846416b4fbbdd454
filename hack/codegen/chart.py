"""The schema of the Helm chart's values, and install.yaml, the chart rendered with default values."""

import json
import shutil
import subprocess
from pathlib import Path

import yaml

from hack.codegen import NOTICE
from hack.devenv.places import BIN
from resnext_operator.runtime.settings import Settings

NAMESPACE = "resnext-system"


def helm() -> str:
    """The helm that hack/devenv installed because the one on PATH is missing or too old, or else the one on PATH."""
    found = shutil.which("helm", path=str(BIN)) or shutil.which("helm")
    if not found:
        raise SystemExit("helm not found: run `python3 hack/devenv clients`")
    return found


def values_schema(chart: Path) -> str:
    """The schema of the chart's values, with the operator's settings from their class."""
    schema = json.loads((chart / "values.schema.json").read_text())
    schema["properties"]["settings"] = Settings.chart_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def install(chart: Path) -> str:
    """The manifests that `helm install` applies, and the namespace, for installation without helm."""
    command = [helm(), "template", "resnext-operator", str(chart), "--namespace", NAMESPACE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    return f"{NOTICE}---\n{yaml.safe_dump(namespace, sort_keys=False)}{done.stdout}"
