"""Running other programs: their output goes to the step's log, and a failure names the log."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from threading import local

from images.setup.places import BIN, LOGS

_current = local()

ENVIRONMENT = {
    **os.environ,
    # At the end, where Go's own archive is unpacked to, and what a user's PATH often lacks.
    "PATH": f"{BIN}:{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/sbin:/sbin",
    "DEBIAN_FRONTEND": "noninteractive",
}


class CommandFailed(Exception):
    """A program ended with an error; its output is in the step's log."""


def log_to(step: str) -> Path:
    """From now on this thread's commands write to the step's log, which starts empty."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{step}.log"
    path.write_text("")
    _current.log = path
    return path


def _log() -> Path:
    return getattr(_current, "log", Path(os.devnull))


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> None:
    """Run a command to its end; raise where it fails."""
    with _log().open("a") as log:
        print("+", *command, file=log, flush=True)
        try:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=cwd,
                env={**ENVIRONMENT, **(env or {})},
                # Never the terminal: a program that reads it would eat the caller's script.
                input=stdin or "",
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{command[0]} did not end within {timeout:g} s") from None
    if done.returncode:
        raise CommandFailed(f"{' '.join(map(str, command[:4]))} … ended with {done.returncode}")


def output(*command: str | Path, env: Mapping[str, str] | None = None, timeout: float | None = 60) -> str:
    """What a command says on standard output; raises where it fails."""
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
    """Whether a command ends well, and in time."""
    try:
        output(*command, timeout=timeout)
    except (CommandFailed, OSError):
        return False
    return True
