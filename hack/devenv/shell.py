"""Runs other programs. Their output goes to the log of the current step."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from threading import local

from hack.devenv.places import BIN, LOGS

_current = local()

ENVIRONMENT = {
    **os.environ,
    # Directories that PATH often lacks: that of Go's official archive, and sbin.
    "PATH": f"{BIN}:{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/sbin:/sbin",
    "DEBIAN_FRONTEND": "noninteractive",
}


class CommandFailed(Exception):
    """A program failed; its output is in the log of the step."""


def log_to(step: str) -> Path:
    """Truncate the step's log and direct the output of this thread's commands to it."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{step}.log"
    path.write_text("")
    _current.log = path
    return path


def _log() -> Path:
    return getattr(_current, "log", Path(os.devnull))


def logged() -> str:
    """The output of this step's commands until now."""
    return _log().read_text(errors="replace")


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> None:
    """Run a command; raises CommandFailed if it fails."""
    with _log().open("a") as log:
        print("+", *command, file=log, flush=True)
        try:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=cwd,
                env={**ENVIRONMENT, **(env or {})},
                # Never the caller's standard input: it may be a script that a program would consume.
                input=stdin or "",
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{command[0]} did not end within {timeout:g} s") from None
    if done.returncode:
        raise CommandFailed(f"{' '.join(map(str, command[:4]))} … failed with exit code {done.returncode}")


def output(*command: str | Path, env: Mapping[str, str] | None = None, timeout: float | None = 60) -> str:
    """Standard output of a command; raises CommandFailed if it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env={**ENVIRONMENT, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{command[0]} did not end within {timeout:g} s") from None
    if done.returncode:
        raise CommandFailed(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def succeeds(*command: str | Path, timeout: float = 20) -> bool:
    """Whether a command succeeds within the timeout."""
    try:
        output(*command, timeout=timeout)
    except (CommandFailed, OSError):
        return False
    return True
