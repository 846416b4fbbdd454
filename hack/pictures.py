"""Draws the pictures of README.md: charts of a run from Prometheus' data, and the output of `kubectl get`.

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

import matplotlib
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

matplotlib.use("svg")
from matplotlib import pyplot as plt  # after the choice of its backend

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "docs" / "assets"
PROMETHEUS = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query_range"
Samples = list[tuple[float, float]]


def kubectl(*arguments: str) -> str:
    """Standard output of kubectl on the demo's cluster."""
    setup = [sys.executable, str(ROOT / "hack" / "devenv"), "kubeconfig"]
    kubeconfig = subprocess.run(setup, check=True, capture_output=True, text=True).stdout.strip()
    command = ["kubectl", f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def samples(promql: str, begin: datetime, end: datetime) -> Samples:
    """(seconds since `begin`, value) of the one series that a query returns, every second."""
    query = {"query": promql, "start": begin.timestamp(), "end": end.timestamp(), "step": "1"}
    answer = json.loads(kubectl("get", "--raw", f"{PROMETHEUS}?{urlencode(query)}"))
    result: list[dict[str, Any]] = answer["data"]["result"]
    if not result:
        raise SystemExit(f"Prometheus has no samples of {promql} between {begin} and {end}: run `make demo` again")
    return [(float(time) - begin.timestamp(), float(value)) for time, value in result[0]["values"] if value != "NaN"]


def chart(title: str, throughput: Samples, top1: Samples) -> str:
    """Two panels over the same time axis, as SVG."""
    plt.rcParams |= {"svg.hashsalt": "resnext", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 4), layout="constrained")
    upper.plot(*zip(*throughput, strict=True), color="#0072b2")
    upper.set(title=title, ylabel="images/s", xlim=(0, None), ylim=(0, 1.1 * max(value for _, value in throughput)))
    lower.plot(
        *zip(*((time, 100 * value) for time, value in top1), strict=True), color="#d55e00", drawstyle="steps-post"
    )
    lower.set(xlabel="seconds since kubectl apply", ylabel="top-1 (%)", ylim=(0, 105))
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


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
    series = f'{{namespace="{options.namespace}",training="{options.training}"}}'
    title = f"{options.training}: {resource['status']['attempts'][-1]['workers']} workers, {begin:%Y-%m-%d}"
    throughput = samples(f"resnext_training_images_per_second{series}", begin, end)
    top1 = samples(f'resnext_training_accuracy_ratio{series[:-1]},k="1"}}', begin, end)
    (ASSETS / "run.svg").write_text(chart(title, throughput, top1))
    table = kubectl("get", "rnx", *named, "--output=wide")
    (ASSETS / "kubectl-get.svg").write_text(terminal(f"kubectl -n {options.namespace} get rnx -o wide", table))


if __name__ == "__main__":
    main()
