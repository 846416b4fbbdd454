"""Runs compared commands alternately, so that a temporary slowdown of the machine affects all of them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Command = Sequence[str | Path]

TRAIN = Path(sys.executable).with_name("resnext-train")


class CommandFailed(Exception):
    """A command failed; the message contains the command and the end of its output."""


def facts(command: Command, timeout: float | None = None, **environment: str) -> dict[str, Any]:
    """The JSON object that a command prints on standard output."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(words)}:\ntimed out after {error.timeout:.0f} s") from None
    except OSError as error:
        raise CommandFailed(f"{' '.join(words)}:\n{error.strerror}") from None
    try:
        if done.returncode:
            raise ValueError
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise CommandFailed(f"{' '.join(words)} failed with exit code {done.returncode}:\n{tail}") from None
    return found


def interleave(rounds: int, commands: Mapping[str, Command]) -> dict[str, list[dict[str, Any]]]:
    """The output of each command in each round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            found[name].append(facts(command))
            speed = found[name][-1]["imagesPerSecond"]
            print(f"  round {number + 1} of {rounds}: {name}: {speed:,.2f} images/s", file=sys.stderr, flush=True)
    return found


def speed(rounds: Sequence[Mapping[str, Any]]) -> float:
    """Median images per second over the rounds."""
    return float(median(found["imagesPerSecond"] for found in rounds))
