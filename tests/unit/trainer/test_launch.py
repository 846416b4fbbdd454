"""Launcher, worker and rank together: real sshd, real ssh, real mpirun over loopback."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from resnext_trainer import launch
from resnext_trainer.report import REPORT_TAG, Report, Verdict

# Open MPI takes this for another machine, since no interface carries it: so the ranks are started by ssh.
HOST = "127.0.0.2"

# Stands in for the trainer. Ranks find it through the worker's PYTHONPATH alone, so the environment travels, too.
STAND_IN = """
import json, os, pathlib, signal, sys, time
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
def end(verdict, code):
    message = f"of {os.environ['OMPI_COMM_WORLD_SIZE']} ranks"
    print("resnext-report " + json.dumps({"verdict": verdict, "message": message}), flush=True)
    os._exit(code)
def stop(*_):
    end("stopped", 0) if rank == 0 else os._exit(0)
signal.signal(signal.SIGUSR2, stop)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
pathlib.Path(os.environ["STARTED"], str(rank)).touch()
print("arguments", *sys.argv[1:], flush=True)
match os.environ["ENDING"]:
    case "finished":
        end("finished", 0) if rank == 0 else os._exit(0)
    case "data_refused" if rank == 1:
        end("data_refused", 3)
    case "crashed" if rank == 1:
        sys.exit("RuntimeError: out of luck")
time.sleep(120)
"""

# The pod's environment comes after Python's start, else the stand-in would take the place of worker and launcher too.
IN_A_POD = """
import json, os, sys
from resnext_trainer.__main__ import main
os.environ.update(json.loads(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


class Pods:
    """A worker of two slots, and launchers for it, with the scratch folders of pods."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ssh_port, self.health_port = folder, free_port(), free_port()
        self.log = folder / "termination-log"
        (folder / "keys").mkdir()
        for name in ("id_ed25519", "host_ed25519"):
            key = folder / "keys" / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            key.chmod(0o440)  # as the Secret's volume makes it; ssh would refuse the key itself
        package = folder / "stand-in" / "resnext_trainer"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(STAND_IN)
        (folder / "started").mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def options(self) -> list[str]:
        places = {"--keys": "keys", "--run-dir": "run", "--termination-log": "termination-log"}
        return [f"--ssh-port={self.ssh_port}", *(f"{name}={self.folder / path}" for name, path in places.items())]

    def start(self, command: str, *options: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", IN_A_POD, json.dumps(environment), command, *self.options(), *options],
            stdout=(self.folder / f"{command}.log").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def worker(self, ending: str) -> "subprocess.Popen[str]":
        process = self.start(
            "worker",
            f"--health-port={self.health_port}",
            PYTHONPATH=f"{self.folder / 'stand-in'}",
            STARTED=str(self.folder / "started"),
            ENDING=ending,
        )
        wait_for(self.ready)
        return process

    def launcher(self, *hosts: str) -> "subprocess.Popen[str]":
        chosen = [f"--host={host}" for host in hosts or (f"{HOST}:2",)]
        config = f"--config={self.folder / 'training.json'}"
        return self.start("launch", config, "--attempt=3", "--world=2", "--deadline=5", *chosen)

    def ready(self) -> bool:
        with suppress(urllib.error.URLError, ConnectionError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=5).status == 200
        return False

    def both_ranks_run(self) -> bool:
        return len(list((self.folder / "started").iterdir())) == 2

    def report(self) -> Report:
        return Report.model_validate_json(self.log.read_text())


@pytest.fixture
def pods(tmp_path):
    pods = Pods(tmp_path)
    yield pods
    for process in pods.started:
        if process.poll() is None:
            process.terminate()
    for process in pods.started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.parametrize(("ending", "code"), [("finished", 0), ("data_refused", 3), ("crashed", 1)])
def test_the_ranks_verdict_becomes_the_launchers_exit_code_and_termination_message(pods, ending, code):
    pods.worker(ending)
    launcher = pods.launcher()
    assert launcher.wait(60) == code, (pods.folder / "launch.log").read_text()
    assert pods.report().verdict == ending
    assert ("out of luck" if ending == "crashed" else "of 2 ranks") in pods.report().message
    assert "arguments train --config" in (pods.folder / "launch.log").read_text()


def test_a_launcher_that_is_asked_to_stop_lets_the_ranks_save(pods):
    pods.worker("when asked")
    launcher = pods.launcher()
    wait_for(pods.both_ranks_run)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == Verdict.STOPPED.value
    assert pods.report().message == "of 2 ranks"


def test_a_worker_that_is_asked_to_stop_lets_its_ranks_save_first(pods):
    worker = pods.worker("when asked")
    launcher = pods.launcher()
    wait_for(pods.both_ranks_run)
    worker.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == Verdict.STOPPED.value
    assert worker.wait(60) == 0
    assert not pods.ready()


@pytest.mark.parametrize(("host", "why"), [("nobody.invalid", "does not resolve"), ("127.0.0.3", "Connection refused")])
def test_a_worker_that_cannot_be_reached_is_named(pods, host, why):
    launcher = pods.launcher(f"{host}:2")
    assert launcher.wait(60) == Verdict.UNREACHABLE.value
    assert pods.report().verdict == "unreachable"
    assert host in pods.report().message
    assert why in pods.report().message


def test_what_no_retry_can_cure_beats_what_was_said_before():
    hung, refused = Report(verdict="hung", message="waited"), Report(verdict="data_refused", message="a record is cut")
    assert launch.verdict([hung, refused], 8, [], asked_to_stop=False) == refused
    assert launch.verdict([hung], 3, [], asked_to_stop=False) == hung


def test_ranks_that_were_stopped_before_they_could_speak_are_stopped_and_not_crashed():
    assert launch.verdict([], 140, ["killed"], asked_to_stop=True).verdict == "stopped"
    assert launch.verdict([], 140, ["killed"], asked_to_stop=False).verdict == "crashed"


def test_a_report_is_found_behind_half_a_line_of_another_rank():
    line = "epoch 1.0" + REPORT_TAG + json.dumps({"verdict": "finished", "message": "all"}) + "step"
    assert launch.parsed(line) == Report(verdict="finished", message="all")
    assert launch.parsed(REPORT_TAG + "{") is None
    assert launch.parsed(REPORT_TAG + json.dumps({"verdict": "unheard of", "message": ""})) is None


def test_a_termination_message_is_whole_json_and_keeps_the_end_of_a_long_one():
    text = launch.fitted(Report(verdict="crashed", message="ö" * 9000 + "the end"))
    assert len(text.encode()) <= 4096
    assert Report.model_validate_json(text).message.endswith("the end")


def test_every_parameter_is_told_to_open_mpi_4_and_5(tmp_path):
    environment = launch.mca_environment(tmp_path)
    assert {name.partition("_MCA_")[0] for name in environment} == {"OMPI", "PRTE"}
    assert environment["OMPI_MCA_plm_rsh_args"] == environment["PRTE_MCA_plm_ssh_args"] == f"-F {tmp_path}/ssh_config"


def test_the_hostfile_names_every_worker_with_its_slots():
    hosts = [launch.Host.parse(f"flowers-worker-{index}-0.flowers:8") for index in range(2)]
    assert launch.hostfile(hosts) == "flowers-worker-0-0.flowers slots=8\nflowers-worker-1-0.flowers slots=8\n"
