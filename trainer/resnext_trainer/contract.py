"""What the trainer tells the operator: how far it is, and how an attempt ended.

Served by each rank as /progress, and written by the launcher as its termination message. Only pydantic is needed.
"""

import math
import sys
from datetime import datetime
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ExitStatus(Enum):
    """How an attempt ended; the value is the launcher's exit code."""

    COMPLETED = 0
    CRASHED = 1
    INVALID_CONFIGURATION = 2
    INVALID_DATA = 3
    NON_FINITE_LOSS = 4
    WORLD_SIZE_MISMATCH = 5
    UNREACHABLE = 6
    GPU_UNAVAILABLE = 7
    HUNG = 8
    NO_VALID_CHECKPOINT = 9
    CHECKPOINT_NOT_SAVED = 10
    """The last checkpoint could not be saved: retried, and counted."""
    CHECKPOINT_LOCKED = 11
    """Another training or an older attempt holds the checkpoint directory's lock: retried, and counted."""
    SYSTEM_ERROR = 12
    """The operating system failed (open files, memory, I/O, a stale network mount): retried, and counted."""
    STOPPED = 75

    @classmethod
    def of_exit_code(cls, code: int) -> "ExitStatus":
        """The verdict behind an exit code; every code that is in no table is a crash."""
        return cls(code) if code in {verdict.value for verdict in cls} else cls.CRASHED


# Bounds that no training comes near: the API server stores numbers, and a rank may answer anything.
Count = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(max_length=16_384)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) <= 2**53 and math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite)]
"""A number that is left out when it is not finite, as a loss may be: JSON has no word for it."""


class CamelCaseModel(BaseModel):
    """Base of spec, status and reports: frozen, and in the API's camelCase."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


class WireModel(CamelCaseModel):
    """Tolerant of fields that a newer trainer adds: operator and trainer may differ by a version."""

    model_config = ConfigDict(extra="ignore")


class SavedCheckpoint(WireModel):
    """A checkpoint that is whole on disk."""

    step: Count
    """Steps done when it was saved."""

    time: datetime
    """When it was saved."""

    path: Text
    """Its folder, as the pod sees it."""

    differences: tuple[str, ...] = ()
    """What changed in the recipe or the dataset where its run continued nevertheless (onMismatch: continue)."""


class Progress(WireModel):
    """How far a training is; counts are over the whole training, not over the attempt."""

    attempt: Count = 0
    """Which launch this is, from 1; never written to the status' progress."""

    epoch: Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)] = 0.0
    """Epochs done, fractional."""

    epochs: Count
    """Epochs to do."""

    step: Count = 0
    """Steps done."""

    steps: Count
    """Steps to do."""

    images_per_second: Number = None
    """Training images per second over all ranks, over the last seconds of training."""

    loss: Number = None
    """Training loss, the mean over the last seconds."""

    top1: Number = None
    """Top-1 accuracy of the last evaluation, as a share."""

    top5: Number = None
    """Top-5 accuracy of the last evaluation, as a share."""

    best_top1: Number = None
    """Best top-1 accuracy of all evaluations."""

    checkpoint: SavedCheckpoint | None = None
    """The newest checkpoint."""

    resumed_step: Count | None = None
    """Step that this attempt started from, 0 without a checkpoint; never written to the status' progress."""


class TerminationReport(WireModel):
    """How an attempt ended. As one line of standard output it starts with REPORT_PREFIX."""

    verdict: str
    """Name of the verdict, in lower case."""

    message: str
    """Why, in a sentence for the user."""

    progress: Progress | None = None
    """How far the training was; none if it never came to a step."""

    rank: Count | None = None
    """The rank to blame; None if that is not known. Of a crash, the one that ended first, and its node was alive then:
    the daemon beside it could still tell."""

    log: tuple[str, ...] = ()
    """The last lines of that rank's log, as far as they are known; the launcher puts them in."""


REPORT_PREFIX = "resnext-report "
"""Starts the one line of standard output that carries a TerminationReport as JSON."""


def print_report(report: TerminationReport) -> None:
    """Say how it ended on standard output, as the one line that the launcher looks for."""
    # From a new line and in one write: another rank's half line may stand before it.
    sys.stdout.write(f"\n{REPORT_PREFIX}{report.model_dump_json(by_alias=True)}\n")
    sys.stdout.flush()
