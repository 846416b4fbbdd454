"""The Helm chart: the schema of its values, and install.yaml, which is the chart rendered with its defaults."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import yaml

from hack.codegen import NOTICE
from resnext_operator.runtime.settings import Settings

NAMESPACE = "resnext-system"


def helm() -> str:
    """The helm on the PATH, or the one that the set-up has brought."""
    cache = Path(os.environ.get("RESNEXT_CACHE") or Path.home() / ".cache" / "resnext-operator")
    found = shutil.which("helm") or shutil.which("helm", path=str(cache / "bin"))
    if not found:
        raise SystemExit("helm is not there: `python3 images/setup tools` gets it")
    return found


def values_schema(chart: Path) -> str:
    """The schema of the chart's values, with the operator's settings as their class declares them."""
    schema = json.loads((chart / "values.schema.json").read_text())
    schema["properties"]["settings"] = Settings.chart_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def install(chart: Path) -> str:
    """What `helm install` would apply, with its namespace, for those without helm."""
    command = [helm(), "template", "resnext-operator", str(chart), "--namespace", NAMESPACE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    return f"{NOTICE}---\n{yaml.safe_dump(namespace, sort_keys=False)}{done.stdout}"
