"""A Docker engine: installed where there is none, started where none runs, and kept running."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from images.setup import apt
from images.setup.places import BIN, CACHE, IMAGES, LOGS
from images.setup.shell import ENVIRONMENT, CommandFailed, output, run, succeeds
from images.setup.steps import say, step

PID = CACHE / "dockerd.pid"
WRAPPER = IMAGES / "setup" / "runc-wrapper"
CAP_SYS_RESOURCE = 24


def answers() -> bool:
    return succeeds("docker", "info")


def has_capability(number: int) -> bool:
    """Whether this process holds a Linux capability in its bounding set."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return True


@step("docker", "a Docker engine", inputs=lambda: [WRAPPER], present=answers)
def docker() -> None:
    if answers():
        return
    if os.geteuid() != 0:
        raise CommandFailed("no Docker engine answers, and only root can start one: start Docker, or run this as root")
    if shutil.which("dockerd", path=ENVIRONMENT["PATH"]) is None:
        say("    No Docker engine here: Debian's is taken")
        apt.install("docker.io", "iptables")
    start()


def start() -> None:
    wait_for_end()
    command = ["dockerd", "--pidfile", str(PID)]
    if not has_capability(CAP_SYS_RESOURCE):
        # Privileged containers ask for every capability there is, and runc refuses to give what it does not hold.
        say("    This root lacks CAP_SYS_RESOURCE: containers get all other capabilities")
        BIN.mkdir(parents=True, exist_ok=True)
        wrapper = Path(shutil.copy(WRAPPER, BIN / "runc-wrapper"))
        command += [f"--add-runtime=resnext={wrapper}", "--default-runtime=resnext"]
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "dockerd.log").open("a") as log:
        # A session of its own: it outlives this command and the terminal.
        engine = subprocess.Popen(
            command,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 60
    while not answers():
        if engine.poll() is not None or time.monotonic() > deadline:
            tail = (LOGS / "dockerd.log").read_text(errors="replace").splitlines()[-15:]
            raise CommandFailed("dockerd did not come up:\n" + "\n".join(tail))
        time.sleep(0.5)


def running() -> int | None:
    """The process of the engine that `start` began, if it still lives."""
    if not PID.is_file():
        return None
    pid = int(PID.read_text())
    name = Path(f"/proc/{pid}/comm")
    return pid if name.is_file() and name.read_text(encoding="utf-8").strip() == "dockerd" else None


def stop() -> None:
    """End the engine that `start` began, and no other."""
    if pid := running():
        os.kill(pid, signal.SIGTERM)
        wait_for_end()


def wait_for_end() -> None:
    """An engine that was told to end gives its containers up to 15 s, and two cannot run at once."""
    deadline = time.monotonic() + 60
    while (pid := running()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if pid:
        raise CommandFailed(f"dockerd (process {pid}) neither answers nor ends")
    # After a power cut another process may have its number, which dockerd would take for itself.
    PID.unlink(missing_ok=True)


def image_exists(reference: str) -> bool:
    return succeeds("docker", "image", "inspect", reference)


def container_runs(name: str) -> bool:
    try:
        return output("docker", "inspect", "--format", "{{.State.Running}}", name) == "true"
    except CommandFailed:
        return False


def build(tag: str, context: Path, dockerfile: Path, *arguments: str) -> None:
    """`docker build` with BuildKit where its client is there, else with the classic builder."""
    buildkit = succeeds("docker", "buildx", "version")
    run(
        *("docker", "build", "--network=host", "--tag", tag, "--file", dockerfile),
        *arguments,
        context,
        env={"DOCKER_BUILDKIT": "1" if buildkit else "0"},
    )
