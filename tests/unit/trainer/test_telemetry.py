"""Telemetry of a rank: Prometheus metrics, progress, console output and the watchdog."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from io import StringIO
from types import SimpleNamespace

import pytest
import rich
from prometheus_client.parser import text_string_to_metric_families

from resnext_trainer import training
from resnext_trainer.cli import train
from resnext_trainer.cli.main import parser
from resnext_trainer.contract import Progress, TerminationReport
from resnext_trainer.runtime import http_server
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.http_server import HttpServer, Response
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.runtime.telemetry import for_rank
from tests.support.processes import free_port
from tests.support.reports import report_in


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def samples(port):
    families = text_string_to_metric_families(get(port, "/metrics"))
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_metrics_exported_before_first_step():
    """All metrics except info exist before the first step."""
    names = {name for name, *_ in samples(for_rank().server.start(0))}
    assert {name for name in names if not name.endswith(("_created", "_bucket", "_sum"))} == {
        f"resnext_trainer_{name}"
        for name in [
            "images_total",
            "steps_total",
            "phase_seconds_total",
            "step_duration_seconds_count",
            "last_step_timestamp_seconds",
            "loss",
            "learning_rate",
            "loss_scale",
            "nonfinite_steps_total",
            "eval_accuracy_ratio",
            "epoch",
            "rollbacks_total",
            "resident_memory_bytes",
            "open_files",
            "read_bytes_total",
            "data_read_requests_total",
            "data_read_bytes_total",
            "bad_records_total",
            "log_write_failures_total",
            "checkpoint_failures_total",
            "checkpoint_last_success_timestamp_seconds",
            "checkpoint_interval_seconds",
        ]
    }


def test_metrics_have_values_of_training_loop():
    """Prometheus' own parser reads the values that the training loop recorded."""
    telemetry = for_rank(3)
    metrics = telemetry.metrics
    metrics.images(32)
    metrics.step_done(0.25)
    metrics.loss(2.5)
    metrics.nonfinite("overflow")
    metrics.accuracy(top1=0.75, top5=0.9)
    metrics.checkpoint_saved(datetime(2026, 1, 1, tzinfo=UTC))
    metrics.info(architecture="resnext50-32x4d", precision="fp32")
    with telemetry.phases.phase("evaluation"):
        pass
    rank = ("rank", "3")
    seen = samples(telemetry.server.start(0))
    assert seen["resnext_trainer_images_total", rank] == 32
    assert seen["resnext_trainer_step_duration_seconds_sum", rank] == 0.25
    assert seen["resnext_trainer_loss", rank] == 2.5
    assert seen["resnext_trainer_nonfinite_steps_total", ("cause", "overflow"), rank] == 1
    assert seen["resnext_trainer_eval_accuracy_ratio", ("k", "1"), rank] == 0.75
    assert seen["resnext_trainer_checkpoint_last_success_timestamp_seconds", rank] == 1767225600
    assert seen["resnext_trainer_phase_seconds_total", ("phase", "evaluation"), rank] > 0
    assert seen["resnext_trainer_info", ("architecture", "resnext50-32x4d"), ("precision", "fp32"), rank] == 1


def test_progress_endpoint_503_until_first_progress():
    """/progress returns 503 until there is progress to report."""
    telemetry = for_rank()
    port = telemetry.server.start(0)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(port, "/progress")
    telemetry.heartbeat.progress = Progress(epochs=5, steps=480, step=120, images_per_second=640.0)
    assert json.loads(get(port, "/progress"))["imagesPerSecond"] == 640.0


def test_progress_endpoint_has_seconds_of_each_phase():
    """Read when the operator polls, so that the training loop does not copy them at each step."""
    telemetry = for_rank()
    telemetry.heartbeat.progress = Progress(epochs=5, steps=480, step=120)
    with telemetry.phases.phase("evaluation"):
        time.sleep(0.01)
    served = Progress.model_validate_json(get(telemetry.server.start(0), "/progress"))
    at_end = telemetry.timed(telemetry.heartbeat.progress)
    assert served.phase_seconds.keys() == at_end.phase_seconds.keys() == telemetry.phases.totals().keys()
    assert served.phase_seconds["evaluation"] == at_end.phase_seconds["evaluation"] >= 0.01
    assert served.without_times() == at_end.without_times() == telemetry.heartbeat.progress


def test_progress_log_throttled_and_rank_0_only():
    """Many steps within a short time produce one line, and only rank 0 logs it."""
    first, second = StringIO(), StringIO()
    for rank, out in enumerate((first, second)):
        console = Console(rank, out)
        for step in range(100):
            console.show(Progress(epoch=step / 96, epochs=5, step=step, steps=480, loss=2.0, top1=0.5))
    assert first.getvalue() == "epoch 0.00/5  step 0/480  loss 2.0000  top-1 50.00 %\n"
    assert second.getvalue() == ""


def test_progress_log_last_step_before_and_after_eval():
    """The last step is logged once before its evaluation, and once after it if the accuracy changed."""
    out = StringIO()
    console = Console(0, out)
    last = Progress(epoch=5.0, epochs=5, step=480, steps=480, loss=2.0, top1=0.5)
    for progress in (last, last, last.model_copy(update={"top1": 0.75}), last.model_copy(update={"top1": 0.75})):
        console.show(progress)
    assert [line[-7:] for line in out.getvalue().splitlines()] == ["50.00 %", "75.00 %"]


def test_progress_terminal_has_bar_and_notes():
    """A terminal shows a progress bar and prints notes above it."""
    out = StringIO()
    before = rich.get_console().__dict__.copy()
    rich.reconfigure(file=out, force_terminal=True, width=120, color_system=None)
    try:
        console = Console(terminal=True)
        console.show(Progress(epoch=1.25, epochs=5, step=120, steps=480, loss=2.0))
        console.note("a checkpoint [1] was saved")
        console.close()
    finally:
        rich.get_console().__dict__.update(before)
    assert "epoch 1.25/5  step 120/480  loss 2.0000" in out.getvalue()
    assert " 25%" in out.getvalue()
    assert "a checkpoint [1] was saved" in out.getvalue()


STUCK = """
import time
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.watchdog import Watchdog

def waits_for_a_peer_that_never_answers():
    time.sleep(60)

heartbeat = Heartbeat(1)
with Watchdog(heartbeat, timeout=0.5):
    time.sleep(1)  # longer than allowed, but for the first step
    heartbeat.step_done()
    waits_for_a_peer_that_never_answers()
"""


def test_watchdog_rank_without_step_ends_as_hung():
    """A rank without a step exits with code 8, a report and its stack."""
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 8
    assert "waits_for_a_peer_that_never_answers" in ended.stderr
    report = report_in(ended.stdout)
    assert report["verdict"] == "hung"
    assert "rank 1 completed no step" in report["message"]


def test_http_server_reuses_port_in_time_wait():
    """The next attempt can bind the port while old connections are in TIME_WAIT."""
    routes = {"/": lambda: Response(200, b"ok\n")}
    port = free_port()
    program = (
        "import sys, urllib.request\nfrom resnext_trainer.runtime.http_server import HttpServer, Response\n"
        f"HttpServer({{'/': lambda: Response(200, b'ok')}}).start({port})\n"
        f"print(urllib.request.urlopen('http://127.0.0.1:{port}/').read())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)  # the server closes first, so its side is in TIME_WAIT
    assert HttpServer(routes).start(port) == port


def test_server_closes_idle_connection_and_serves_others(monkeypatch):
    """A scraper that hangs keeps no thread of the rank and delays no other scraper."""
    monkeypatch.setattr(http_server, "IDLE_SECONDS", 0.3)
    port = for_rank().server.start(0)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as hanging:
        assert get(port, "/healthz") == "ok\n"
        assert hanging.recv(1) == b""


@pytest.mark.parametrize("progress", [Progress(epochs=5, steps=480, step=480), None], ids=["steps", "no step"])
def test_last_report_has_seconds_of_each_phase(progress, monkeypatch):
    """The operator accounts for the time until the end of an attempt."""

    def run(*_, telemetry, **__):
        with telemetry.phases.phase("evaluation"):
            time.sleep(0.01)
        return TerminationReport(verdict="completed", message="", progress=progress)

    monkeypatch.setattr(training, "entrypoint", SimpleNamespace(run=run), raising=False)
    options = parser().parse_args(["train", "--metrics-port=0", "--set", "data.format=synthetic"])
    report = train._trained(options, Requests())
    if progress is None:
        assert report.progress is None
    else:
        assert report.progress
        assert report.progress.phase_seconds["evaluation"] >= 0.01
        assert report.progress.without_times() == progress


def test_blocked_metrics_port_does_not_end_training(monkeypatch):
    """The training runs without metrics, and the log names the port."""
    report = TerminationReport(verdict="completed", message="")
    monkeypatch.setattr(training, "entrypoint", SimpleNamespace(run=lambda *_, **__: report), raising=False)
    notes: list[str] = []
    monkeypatch.setattr(Console, "note", lambda _, text: notes.append(text))
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        options = parser().parse_args(["train", f"--metrics-port={port}", "--set", "data.format=synthetic"])
        assert train._trained(options, Requests()).verdict == "completed"
    assert notes == [f"metrics disabled: cannot bind port {port}: Address already in use"]
