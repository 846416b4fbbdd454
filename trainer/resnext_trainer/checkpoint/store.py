"""Atomic checkpoints: written to a temporary directory with a checksum, synced, then renamed.

Each is a directory `step-STEP-attempt-ATTEMPT` with the arrays (state.npz) and metadata (state.json: position, SHA-256
of the arrays, provenance). The checkpoint with the best top-1 accuracy is kept in `best`. Used on rank 0 only.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter

from resnext_trainer.checkpoint.provenance import Provenance, version
from resnext_trainer.checkpoint.runs import FORMAT, check_format
from resnext_trainer.contract import ExitStatus, SavedCheckpoint
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8,})-attempt-(\d{4,})")
_ARRAYS, _STATE = "state.npz", "state.json"
_BEST = "best"

Count = Annotated[int, Field(ge=0)]

Arrays = Mapping[str, np.ndarray]

Guard = Callable[[], None]
"""Raises if this process must no longer write; called before each rename."""

CORRUPT_CHECKPOINT_ERRORS = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile)
"""Exceptions of `read` for a checkpoint that is missing or damaged."""


@dataclass(frozen=True)
class TrainingPosition:
    """Position of a training, independent of the number of ranks."""

    step: Count = 0
    """Number of completed steps."""
    epoch: Count = 0
    """Number of completed epochs."""
    images: Count = 0
    """Images consumed in the current epoch, over all ranks."""
    top1: float | None = None
    top5: float | None = None
    best_top1: float | None = None
    rollbacks: Count = 0
    """Number of rollbacks after a non-finite loss."""
    redealt: tuple[tuple[Count, Count], ...] = ()
    """Rollbacks within the current epoch; see `data.input_pipeline.ReshuffleHistory`."""


class Checkpoint(NamedTuple):
    """Content of a checkpoint."""

    position: TrainingPosition
    arrays: Arrays
    saved: SavedCheckpoint


@dataclass(frozen=True)
class _State:
    """Content of state.json."""

    position: TrainingPosition
    time: datetime
    sha256: str
    """SHA-256 of state.npz."""
    format: int = 1
    provenance: Provenance | None = None
    """Origin of the weights; None in format 1."""
    version: str = "unknown"
    """Version of the trainer; not part of the provenance, so that any version can read it."""


_STATE_FILE = TypeAdapter(_State)


def _anybody() -> None:
    """Guard of a directory without concurrent writers."""


def save(
    folder: Path,
    position: TrainingPosition,
    arrays: Arrays,
    attempt: int,
    keep: int,
    provenance: Provenance | None = None,
    guard: Guard = _anybody,
) -> SavedCheckpoint:
    """Writes a checkpoint and removes old ones. After an OSError the other checkpoints are unchanged."""
    to = folder / f"step-{position.step:08d}-attempt-{attempt:04d}"
    saved = _write(to, position, arrays, provenance, guard)
    for _, old in _list_checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return saved


def save_best(
    folder: Path,
    position: TrainingPosition,
    arrays: Arrays,
    provenance: Provenance | None = None,
    guard: Guard = _anybody,
) -> SavedCheckpoint:
    """Replaces the best checkpoint."""
    return _write(best_path(folder), position, arrays, provenance, guard)


def is_checkpoint(path: Path) -> bool:
    """Whether this is the directory of a single checkpoint, possibly damaged."""
    return (path / _STATE).exists()


def best_path(folder: Path) -> Path:
    """Path of the best checkpoint of a run."""
    return folder / _BEST


def best(folder: Path) -> Checkpoint | None:
    """The best checkpoint; None if it is missing or damaged."""
    kept = best_path(folder)
    old = _backup_path(kept)
    if old.exists() and not kept.exists():
        old.rename(kept)  # the process exited between the two renames in _write
    try:
        return read(kept)
    except FileNotFoundError:
        return None
    except CORRUPT_CHECKPOINT_ERRORS as error:
        log.warning("%s is incomplete (%s); it will be replaced after the next evaluation", kept, error)
        return None


def newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint; None if there are no checkpoints."""
    found = _list_checkpoints(folder)
    for _, candidate in found:
        try:
            return read(candidate)
        except CORRUPT_CHECKPOINT_ERRORS as error:
            log.warning("%s is incomplete (%s); using the previous one", candidate, error)
    if found:
        raise TrainingError(
            ExitStatus.NO_VALID_CHECKPOINT,
            f"{folder} contains {len(found)} checkpoints and none is valid; the newest is {found[0][1].name}: restore "
            "one, or empty the directory to start over",
        )
    return None


def read(checkpoint: Path) -> Checkpoint:
    """Reads a checkpoint. Raises one of CORRUPT_CHECKPOINT_ERRORS if it is missing or damaged."""
    state = _state(checkpoint)
    with (checkpoint / _ARRAYS).open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != state.sha256:
            raise ValueError("checksum mismatch")
    with np.load(checkpoint / _ARRAYS) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if others := [name for name, array in arrays.items() if array.dtype != np.float32]:
        raise ValueError(f"{others[0]} is not float32")
    return Checkpoint(state.position, arrays, _saved(checkpoint, state))


def provenance(checkpoint: Path) -> Provenance | None:
    """Provenance of a checkpoint, if it has one. Raises one of CORRUPT_CHECKPOINT_ERRORS."""
    return _state(checkpoint).provenance


def newest_provenance(folder: Path) -> tuple[TrainingPosition, SavedCheckpoint, Provenance | None] | None:
    """Metadata of the newest checkpoint, whose arrays may be damaged; None if there is none."""
    for _, candidate in _list_checkpoints(folder):
        try:
            state = _state(candidate)
        except CORRUPT_CHECKPOINT_ERRORS:
            continue
        return state.position, _saved(candidate, state), state.provenance
    return None


def _state(checkpoint: Path) -> _State:
    file = checkpoint / _STATE
    content = file.read_bytes()
    check_format(json.loads(content), file)
    return _STATE_FILE.validate_json(content)


def _saved(checkpoint: Path, state: _State) -> SavedCheckpoint:
    differences = state.provenance.differences if state.provenance else ()
    return SavedCheckpoint(step=state.position.step, time=state.time, path=str(checkpoint), differences=differences)


def _write(
    to: Path, position: TrainingPosition, arrays: Arrays, provenance: Provenance | None, guard: Guard
) -> SavedCheckpoint:
    aside, old = to.with_name(f".{to.name}.writing"), _backup_path(to)
    for left_over in to.parent.glob(".*.writing"):
        shutil.rmtree(left_over, ignore_errors=True)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        aside.mkdir(parents=True)
        with (aside / _ARRAYS).open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # mypy mistakes the names for options of savez
        with (aside / _ARRAYS).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        state = _State(position, now, digest, FORMAT, provenance, version())
        (aside / _STATE).write_bytes(_STATE_FILE.dump_json(state, indent=1, by_alias=True))
        for part in (aside / _ARRAYS, aside / _STATE, aside):
            _sync(part)
        guard()
        if to.exists():
            shutil.rmtree(old, ignore_errors=True)
            to.rename(old)
        aside.rename(to)
        _sync(to.parent)
    except (OSError, TrainingError):
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return _saved(to, state)


def _list_checkpoints(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """The checkpoints by (step, attempt), newest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return sorted(((int(match[1]), int(match[2])), path) for match, path in matches if match)[::-1]


def _backup_path(checkpoint: Path) -> Path:
    """Temporary path of a checkpoint that is being replaced."""
    return checkpoint.with_name(f".{checkpoint.name}.old")


def _sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
