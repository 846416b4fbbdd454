"""One measurement of a sweep: `resnext-train benchmark` in its own process.

TensorFlow cannot continue after running out of memory: the memory of the failed step stays allocated.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext_trainer.contract import ExitStatus
from resnext_trainer.training.batch_search import Outcome

_OUT_OF_MEMORY = ("out of memory", "resource_exhausted", "resourceexhausted", "bad_alloc", "oom when allocating")
"""Words of TensorFlow, XLA, cuDNN, DALI and the C++ library, in lower case."""

_UNUSABLE = {ExitStatus.INVALID_CONFIGURATION.value, ExitStatus.INVALID_DATA.value, ExitStatus.GPU_UNAVAILABLE.value}
"""Exit statuses that do not depend on the batch size."""


@dataclass(frozen=True)
class Cell:
    """Settings of one measurement."""

    precision: str
    xla: bool
    batch: int
    synthetic: bool = True
    """Random images instead of the configured dataset."""

    @property
    def mode(self) -> str:
        """Precision and compiler, such as fp16+xla."""
        return f"{self.precision}{'+xla' if self.xla else ''}"

    def settings(self) -> list[str]:
        """Values for `--set`."""
        return [f"batchSize={self.batch}", f"precision.mode={self.precision}", f"xla={str(self.xla).lower()}"]


@dataclass(frozen=True)
class Measured:
    """Result of a cell."""

    cell: Cell
    outcome: Outcome
    facts: Mapping[str, Any]
    """The JSON object of the benchmark; empty unless it fits."""
    reason: str = ""
    """Why there is no result."""


def measure(cell: Cell, arguments: Sequence[str], seconds: float, memory: int | None) -> Measured:
    """Runs the benchmark of a cell.

    arguments: options of `resnext-train benchmark training` that all cells share. seconds: time limit. memory: limit of
    the process's memory in bytes, for training on CPUs, where the kernel would otherwise kill processes of others too.
    """
    command = [sys.executable, "-m", "resnext_trainer", "benchmark", "training", "--json", *arguments]
    command += [word for each in cell.settings() for word in ("--set", each)]
    if cell.synthetic:
        command.append("--synthetic")

    def limit_memory() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        preexec_fn=limit_memory,
    )
    try:
        printed, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        # Even after Ctrl-C, which does not reach another session.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return Measured(cell, Outcome.TOO_LARGE, {}, f"no result within {seconds:.0f} s")
        raise
    return explain(cell, process.returncode, printed, errors)


def explain(cell: Cell, status: int, printed: str, errors: str) -> Measured:
    """The result of a benchmark that has ended. status: exit status, or the negative number of a signal."""
    if status == 0:
        with suppress(ValueError):
            return Measured(cell, Outcome.FITS, json.loads(printed[printed.index("{") :]))
    lines = [line for line in (printed + errors).splitlines() if line.strip()]
    last = lines[-1].strip()[:200] if lines else "no output"
    if status in _UNUSABLE:
        return Measured(cell, Outcome.STOP, {}, last)
    if status == -signal.SIGKILL or any(words in (printed + errors).lower() for words in _OUT_OF_MEMORY):
        return Measured(cell, Outcome.TOO_LARGE, {}, "out of memory")
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return Measured(cell, Outcome.FAILED, {}, f"{how}: {last}")


def available_memory(file: Path = Path("/proc/meminfo")) -> int | None:
    """Memory in bytes that this machine can give to a process without swapping; None if the kernel does not say."""
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
