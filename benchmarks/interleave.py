"""Commands that are compared run in turns, so that what slows the machine for a minute slows them all alike."""

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
    """A command ended with an error; the text holds the command and its last words."""


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
        raise CommandFailed(f"{' '.join(words)}:\nit took longer than {error.timeout:.0f} s") from None
    except OSError as error:
        raise CommandFailed(f"{' '.join(words)}:\n{error.strerror}") from None
    try:
        if done.returncode:
            raise ValueError
        found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise CommandFailed(f"{' '.join(words)} ended with {done.returncode}:\n{tail}") from None
    return found


def interleave(rounds: int, commands: Mapping[str, Command]) -> dict[str, list[dict[str, Any]]]:
    """What each command printed in each round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            found[name].append(facts(command))
            speed = found[name][-1]["imagesPerSecond"]
            print(f"  round {number + 1} of {rounds}: {name}: {speed:,.2f} images/s", file=sys.stderr, flush=True)
    return found


def speed(rounds: Sequence[Mapping[str, Any]]) -> float:
    """The median of the rounds' images per second."""
    return float(median(found["imagesPerSecond"] for found in rounds))
