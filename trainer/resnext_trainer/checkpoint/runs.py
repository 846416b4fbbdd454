"""Runs in a checkpoint directory: each has its own directory, and one of them is the current one.

    current-run                 ID of the current run
    runs/RUN/run.json           origin of the run
    runs/RUN/lock-GENERATION    see `lock`
    runs/RUN/step-STEP-attempt-ATTEMPT, best, log.jsonl, tensorboard

A directory of checkpoint format 1 contains a single run at its top level; that run is not moved.
"""

import json
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resnext_trainer.checkpoint.provenance import version
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

FORMAT = 2
"""Checkpoint format. Format 1 had a single run at the top level, and stored no configuration."""

_POINTER, _RUNS, _BEGINNING = "current-run", "runs", "run.json"
_TOP = ("step-*-attempt-*", "best", ".best.old")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


@dataclass(frozen=True)
class Run:
    """A run and its directory."""

    folder: Path
    id: str = ""
    """Empty for the run of format 1, at the top level of the directory."""

    def __str__(self) -> str:
        return f"run {self.id} in {self.folder}" if self.id else f"the run in {self.folder}"


class Beginning(BaseModel):
    """Origin of a run: content of run.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    version: str = Field(default_factory=version)
    run: str
    time: datetime
    training: str
    """UID of the training that started it."""
    attempt: int
    weights: str | None = None
    """ID of the run whose weights it started with (onMismatch: warmStart); empty for a run of format 1."""


class _Pointer(BaseModel):
    """The file that names the current run."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    version: str = "unknown"
    run: str


def current(root: Path) -> Run | None:
    """The current run; None in an empty directory. Raises TrainingError if it cannot be determined."""
    file = root / _POINTER
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return _without_pointer(root)
    try:
        stored = json.loads(content)
        check_format(stored, file)
        pointer = _Pointer.model_validate(stored)
        if not _ID.fullmatch(pointer.run):
            raise ValueError(f"{pointer.run!r} is not a valid run ID")
    except (ValueError, ValidationError) as error:
        raise TrainingError(
            ExitStatus.NO_VALID_CHECKPOINT, f"{file} does not name a run ({error}): {_how_to_choose(root)}"
        ) from None
    return _run(root, pointer.run)


def located(path: Path) -> Path:
    """The directory with checkpoints and log of a run: that of the current run, or `path` if there is none."""
    if not path.is_dir():
        return path
    run = current(path)
    return run.folder if run else path


def of_id(root: Path, name: str) -> Run:
    """The run with this ID."""
    return _run(root, name) if name else Run(root)


def create(root: Path, training: str, attempt: int, weights: str | None = None) -> Run:
    """Creates a run, which is not yet the current one."""
    now = datetime.now(UTC).replace(microsecond=0)
    run = _run(root, f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}")
    run.folder.mkdir(parents=True)
    beginning = Beginning(run=run.id, time=now, training=training, attempt=attempt, weights=weights)
    _replace(run.folder / _BEGINNING, beginning.model_dump_json(indent=1))
    return run


def beginning(run: Run) -> Beginning | None:
    """Origin of a run; None if unknown."""
    file = run.folder / _BEGINNING
    with suppress(FileNotFoundError, ValidationError):
        stored = file.read_bytes()
        with suppress(ValueError):
            check_format(json.loads(stored), file)
        return Beginning.model_validate_json(stored)
    return None


def warm_start_folder(root: Path, run: Run) -> Path | None:
    """Directory of the run whose weights `run` started with (onMismatch: warmStart); None without one."""
    began = beginning(run) if run.id else None
    return None if began is None or began.weights is None else of_id(root, began.weights).folder


def make_current(root: Path, run: Run) -> None:
    """Makes a run the current one. The caller holds the lock of the current run or, without one, of the root."""
    _replace(root / _POINTER, _pointer(run))


def check_format(stored: Any, file: Path) -> None:
    """Raises TrainingError for the format of a later version, and ValueError for invalid data."""
    if not isinstance(stored, dict):
        raise ValueError("it is not a JSON object")
    form = stored.get("format", 1)
    if not isinstance(form, int) or isinstance(form, bool) or form < 1:
        raise ValueError(f"its format is {form!r}, expected {' or '.join(map(str, range(1, FORMAT + 1)))}")
    if form > FORMAT:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"{file} has checkpoint format {form}, written by version {stored.get('version', 'unknown')}; this is "
            f"version {version()}, which reads formats up to {FORMAT}: use the later version, or set "
            "checkpoints.subPath or checkpoint.path to another directory",
        )


def _without_pointer(root: Path) -> Run | None:
    if any(next(root.glob(pattern), None) for pattern in _TOP):
        return Run(root)
    # A process that exited before its run became the current one leaves a run without checkpoints.
    if next(root.glob(f"{_RUNS}/*/{_TOP[0]}"), None):
        raise TrainingError(ExitStatus.NO_VALID_CHECKPOINT, f"{root / _POINTER} is missing: {_how_to_choose(root)}")
    return None


def _how_to_choose(root: Path) -> str:
    found = sorted(path.name for path in (root / _RUNS).glob("*") if path.is_dir())
    if not found:
        return f"remove it, or restore {root} from a backup"
    last = json.dumps({"format": FORMAT, "run": found[-1]})
    return f"write the run to resume to the file, such as {last}; {root / _RUNS} contains {', '.join(found[-20:])}"


def _run(root: Path, name: str) -> Run:
    folder = root / _RUNS / name
    for each in (folder.parent, folder):
        if each.is_symlink():
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                f"{each} is a symbolic link, to which checkpoints are not written: replace it with a directory",
            )
    return Run(folder, name)


def _pointer(run: Run) -> str:
    return _Pointer(format=FORMAT, version=version(), run=run.id).model_dump_json()


def _replace(file: Path, text: str) -> None:
    _written_aside(file, text).rename(file)


def _written_aside(file: Path, text: str) -> Path:
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(f"{text}\n")
        stream.flush()
        os.fsync(stream.fileno())
    return aside
