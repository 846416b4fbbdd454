"""Draws the pictures of README.md: panels of the dashboard from Prometheus' data, and the output of `kubectl get`.

    python -m hack.pictures TRAINING [-n NAMESPACE]

Requires the cluster of `make demo` and a run whose samples Prometheus still has.
"""

import argparse
import io
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from hack import panel_pictures

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "docs" / "assets"
PROMETHEUS = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query_range"
SHOWN = ("Total throughput", "Step time breakdown", "Goodput", "Loss", "Accuracy", "Wall time by activity")
"""Panels of the dashboard *ResNeXt training*."""


def kubectl(*arguments: str) -> str:
    """Standard output of kubectl on the demo's cluster."""
    setup = [sys.executable, str(ROOT / "hack" / "devenv"), "kubeconfig"]
    kubeconfig = subprocess.run(setup, check=True, capture_output=True, text=True).stdout.strip()
    command = ["kubectl", f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def query_range(promql: str, begin: datetime, end: datetime) -> list[dict[str, Any]]:
    """The series that a query returns, every second."""
    query = {"query": promql, "start": begin.timestamp(), "end": end.timestamp(), "step": "1"}
    result: list[dict[str, Any]] = json.loads(kubectl("get", "--raw", f"{PROMETHEUS}?{urlencode(query)}"))["data"][
        "result"
    ]
    return result


def terminal(command: str, output: str) -> str:
    """A command and its output in a terminal, as SVG; the theme's fonts would come from another host."""
    console = Console(record=True, width=max(map(len, output.splitlines())) + 2, file=io.StringIO())
    console.print(Text(f"$ {command}\n{output.rstrip()}\n"))
    frame = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    text = console.export_svg(title="", theme=SVG_EXPORT_THEME, code_format=frame, unique_id="terminal")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def main() -> None:
    """Draws both pictures of a finished training."""
    parser = argparse.ArgumentParser(prog="python -m hack.pictures", description="Draw the pictures of README.md.")
    parser.add_argument("training")
    parser.add_argument("-n", "--namespace", default="demo")
    options = parser.parse_args()
    named = ("--namespace", options.namespace)
    resource = json.loads(kubectl("get", "rnx", options.training, *named, "--output=json"))
    begin = datetime.fromisoformat(resource["metadata"]["creationTimestamp"])
    end = datetime.fromisoformat(resource["status"]["completionTime"]) + timedelta(seconds=5)
    title = f"{options.training}: {resource['status']['attempts'][-1]['workers']} workers, {begin:%Y-%m-%d}"
    variables = {"namespace": options.namespace, "training": options.training, "rank": ".+", "__rate_interval": "20s"}
    panels = panel_pictures.read("resnext-training", query_range, variables, begin, end, SHOWN)
    if len(panels) < len(SHOWN):
        raise SystemExit(f"Prometheus has no samples of {options.training}: run `make demo` again")
    (ASSETS / "run.svg").write_text(panel_pictures.svg(panel_pictures.figure(title, panels)))
    table = kubectl("get", "rnx", *named, "--output=wide")
    (ASSETS / "kubectl-get.svg").write_text(terminal(f"kubectl -n {options.namespace} get rnx -o wide", table))


if __name__ == "__main__":
    main()
