"""The Helm chart: the schema of its values, and its rendered objects."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from hack.devenv.places import BIN
from resnext_operator.api import crd
from resnext_operator.api.spec import RunPolicy
from resnext_operator.runtime.settings import Settings

NAMESPACE = "resnext-system"
RELEASE = "resnext-operator"


def helm() -> str:
    """The helm that hack/devenv installed because the one on PATH is missing or too old, or else the one on PATH."""
    found = shutil.which("helm", path=str(BIN)) or shutil.which("helm")
    if not found:
        raise SystemExit("helm not found: run `python3 hack/devenv clients`")
    return found


def values_schema(chart: Path) -> str:
    """The schema of the chart's values, with `settings` and `runPolicy` from their classes."""
    schema = json.loads((chart / "values.schema.json").read_text())
    run_policy = {**crd.structural(RunPolicy), "additionalProperties": False}
    schema["properties"] |= {"settings": Settings.chart_schema(), "runPolicy": run_policy}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def rendered(chart: Path, arguments: Iterable[str]) -> str:
    """What `helm install` applies with the arguments, such as `--set image=x`.

    Raises SystemExit with helm's message.
    """
    command = [helm(), "template", RELEASE, str(chart), "--namespace", NAMESPACE, "--no-hooks", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.removesuffix("\n\nUse --debug flag to render out invalid YAML\n"))
    return done.stdout
