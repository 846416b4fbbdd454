"""A worker and launchers on this machine: real sshd, real ssh, real mpirun over loopback."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from resnext_trainer.contract import TerminationReport
from resnext_trainer.runtime import worker
from tests.support.processes import free_port

# No interface has this address, so Open MPI treats it as a remote host and starts the ranks with ssh.
HOST = "127.0.0.2"

# Set after Python has started; otherwise the replacement would affect worker and launcher as well.
IN_A_POD = """
import json, os, sys
from resnext_trainer.__main__ import main
os.environ.update(json.loads(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "timed out"
        time.sleep(0.1)


class Pods:
    """A worker with two slots and its launchers, with the scratch directories of pods."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ssh_port, self.health_port = folder, free_port(), free_port()
        self.termination_log = folder / "termination-log"
        (folder / "keys").mkdir()
        for name in ("id_ed25519", "host_ed25519"):
            key = folder / "keys" / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            key.chmod(0o440)  # the mode of the Secret's volume, which ssh does not accept for a private key
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

    def worker(self, **environment: str) -> "subprocess.Popen[str]":
        process = self.start("worker", f"--health-port={self.health_port}", **environment)
        wait_for(lambda: self.ready() or process.poll() is not None)
        assert process.poll() is None, self.log_of("worker")
        return process

    def launcher(self, *options: str, hosts: tuple[str, ...] = (f"{HOST}:2",)) -> "subprocess.Popen[str]":
        config = f"--config={self.folder / 'training.json'}"
        chosen = [f"--host={host}" for host in hosts]
        return self.start("launch", config, "--attempt=3", "--world-size=2", "--connect-timeout=5", *chosen, *options)

    def ranks(self) -> list[int]:
        """Process ids of the running ranks."""
        return worker._pids(self.folder / "run")

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def end(self) -> None:
        """Terminate the processes that still run, as the kubelet does for a deleted pod."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def log_of(self, command: str) -> str:
        return (self.folder / f"{command}.log").read_text()

    def report(self) -> TerminationReport:
        return TerminationReport.model_validate_json(self.termination_log.read_text())
