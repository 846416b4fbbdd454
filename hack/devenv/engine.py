"""The Docker engine: installs it from Debian if it is missing, and starts it if it is not running."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from hack.devenv import apt
from hack.devenv.places import BIN, CACHE, LOGS
from hack.devenv.shell import ENVIRONMENT, CommandFailed, output, run, succeeds
from hack.devenv.steps import say, step

PID = CACHE / "dockerd.pid"
WRAPPER = Path(__file__).parent / "runc-wrapper"
CAP_SYS_RESOURCE = 24


def answers() -> bool:
    return succeeds("docker", "info")


def has_capability(number: int) -> bool:
    """Whether this process holds a Linux capability in its bounding set."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return True


@step("docker", "starting a Docker engine", inputs=lambda: [WRAPPER], present=answers)
def docker() -> None:
    if answers():
        return
    if os.geteuid() != 0:
        raise CommandFailed(
            "Docker is not reachable: start it, or add your user to the group docker. "
            "As root, this command installs and starts Docker"
        )
    if shutil.which("dockerd", path=ENVIRONMENT["PATH"]) is None:
        say("    Docker is not installed: installing it from Debian")
        apt.install("docker.io", "iptables")
    start()


def start() -> None:
    wait_for_end()
    command = ["dockerd", "--pidfile", str(PID)]
    if not has_capability(CAP_SYS_RESOURCE):
        # Privileged containers request all capabilities, and runc fails if it lacks one of them.
        say("    root lacks CAP_SYS_RESOURCE: containers run without it")
        BIN.mkdir(parents=True, exist_ok=True)
        wrapper = Path(shutil.copy(WRAPPER, BIN / "runc-wrapper"))
        command += [f"--add-runtime=resnext={wrapper}", "--default-runtime=resnext"]
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "dockerd.log").open("a") as log:
        # In a new session, so that it keeps running after this command ends and the terminal is closed.
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
            raise CommandFailed("dockerd did not start:\n" + "\n".join(tail))
        time.sleep(0.5)


def running() -> int | None:
    """Process id of the engine that `start` started, if it is still running."""
    if not PID.is_file():
        return None
    pid = int(PID.read_text())
    name = Path(f"/proc/{pid}/comm")
    return pid if name.is_file() and name.read_text(encoding="utf-8").strip() == "dockerd" else None


def stop() -> None:
    """Stop the engine that `start` started, and no other."""
    if pid := running():
        os.kill(pid, signal.SIGTERM)
        wait_for_end()


def wait_for_end() -> None:
    """Wait until a stopping engine has exited. It waits up to 15 s for its containers, and only one engine can run."""
    deadline = time.monotonic() + 60
    while (pid := running()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if pid:
        raise CommandFailed(f"dockerd (process {pid}) does not respond and does not exit: stop it, then retry")
    # After a power failure, another process may have this process id, which dockerd would mistake for a running engine.
    PID.unlink(missing_ok=True)


def image_exists(reference: str) -> bool:
    return succeeds("docker", "image", "inspect", reference)


def container_runs(name: str) -> bool:
    try:
        return output("docker", "inspect", "--format", "{{.State.Running}}", name) == "true"
    except CommandFailed:
        return False


def build(tag: str, context: Path, dockerfile: Path, *arguments: str) -> None:
    """Run `docker build` with BuildKit if buildx is installed, otherwise with the classic builder."""
    buildkit = succeeds("docker", "buildx", "version")
    run(
        *("docker", "build", "--network=host", "--tag", tag, "--file", dockerfile),
        *arguments,
        context,
        env={"DOCKER_BUILDKIT": "1" if buildkit else "0"},
    )
