"""Contract between the trainer and the operator: progress of a training and result of an attempt.

Ranks serve progress as /progress; the launcher writes the result as its termination message. Imports only pydantic.
"""

import math
import sys
from datetime import datetime
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ExitStatus(Enum):
    """Result of an attempt; the value is the exit code of the launcher."""

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
    """The last checkpoint could not be saved; retried, counts toward backoffLimit."""
    CHECKPOINT_LOCKED = 11
    """Another training or a later attempt holds the lock of the checkpoint directory; retried, counts toward
    backoffLimit."""
    SYSTEM_ERROR = 12
    """Operating-system error (too many open files, out of memory, I/O error, stale mount); retried, counts toward
    backoffLimit."""
    STOPPED = 75

    @classmethod
    def of_exit_code(cls, code: int) -> "ExitStatus":
        """Result for an exit code; CRASHED for unknown codes."""
        return cls(code) if code in {verdict.value for verdict in cls} else cls.CRASHED


# Bounds far above real values, so that an invalid response of a rank cannot reach the API server.
Count = Annotated[int, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(max_length=16_384)]
PhaseName = Annotated[str, Field(max_length=64)]
Seconds = Annotated[float, Field(ge=0, le=2**40, allow_inf_nan=False)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) <= 2**53 and math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite)]
"""A number; None if it is not finite, as a loss may be, because JSON cannot represent NaN."""


class CamelCaseModel(BaseModel):
    """Base of spec, status and reports: immutable, with camelCase field names as in the API."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


class WireModel(CamelCaseModel):
    """Ignores unknown fields, because operator and trainer may differ by one version."""

    model_config = ConfigDict(extra="ignore")


class SavedCheckpoint(WireModel):
    """A checkpoint that is complete on disk."""

    step: Count
    """Number of steps done when the checkpoint was saved."""

    time: datetime
    """Time when the checkpoint was saved."""

    path: Text
    """Directory of the checkpoint in the pod."""

    differences: tuple[str, ...] = ()
    """Changes to the recipe or the dataset with which the run continued (onMismatch: continue)."""


class Progress(WireModel):
    """Progress of a training. Counts refer to the whole training, not to the attempt."""

    attempt: Count = 0
    """Number of the attempt, from 1; not part of status.progress."""

    epoch: Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)] = 0.0
    """Fractional number of epochs done."""

    epochs: Count
    """Total number of epochs."""

    step: Count = 0
    """Number of steps done."""

    steps: Count
    """Total number of steps."""

    images_per_second: Number = None
    """Training images per second of all ranks, averaged over the last 10 seconds of training."""

    loss: Number = None
    """Mean training loss over the last 10 seconds."""

    top1: Number = None
    """Top-1 accuracy of the last evaluation, from 0 to 1."""

    top5: Number = None
    """Top-5 accuracy of the last evaluation, from 0 to 1."""

    best_top1: Number = None
    """Best top-1 accuracy of all evaluations, from 0 to 1."""

    checkpoint: SavedCheckpoint | None = None
    """The newest checkpoint."""

    resumed_step: Count | None = None
    """Step from which this attempt started, 0 without a checkpoint; not part of status.progress."""

    phase_seconds: Annotated[dict[PhaseName, Seconds], Field(max_length=32)] = {}
    """Seconds that rank 0 has spent in each phase of this attempt; not part of status.progress."""

    def without_times(self) -> "Progress":
        """The progress alone, which does not change while no steps are completed."""
        return self.model_copy(update={"phase_seconds": {}})


class TerminationReport(WireModel):
    """Result of an attempt. A rank prints it as one line that starts with REPORT_PREFIX."""

    verdict: str
    """Name of the ExitStatus in lower case."""

    message: str
    """Reason, for the user."""

    progress: Progress | None = None
    """Progress at the end of the attempt; None before the first step."""

    rank: Count | None = None
    """The rank that caused the failure; None if unknown. After a crash, the rank that exited first; its node was alive,
    because the daemon on it reported the exit."""

    log: tuple[str, ...] = ()
    """Last log lines of that rank, added by the launcher."""


REPORT_PREFIX = "resnext-report "
"""Prefix of the line of standard output that contains a TerminationReport as JSON."""


def print_report(report: TerminationReport) -> None:
    """Prints the report as one line for the launcher."""
    # A leading newline and a single write, because part of another rank's line may precede it.
    sys.stdout.write(f"\n{REPORT_PREFIX}{report.model_dump_json(by_alias=True)}\n")
    sys.stdout.flush()
