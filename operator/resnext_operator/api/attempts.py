"""Attempts in the status: launches of a training, and failed starts of its workers."""

from collections.abc import Iterable

from pydantic import ConfigDict

from resnext_operator.api.status_fields import (
    Count,
    ExitCode,
    Lines,
    PositiveInt,
    StatusModel,
    Text,
    Time,
    WorkerCount,
)

MAX_RECORDED_ATTEMPTS = MAX_RECORDED_STARTS = 10

_END_FIELDS = ("end_time", "cause", "message", "exit_code", "pod", "node", "rank", "log", "checkpoint_step")
"""Fields of an attempt that are set when it ends."""


class AttemptStatus(StatusModel):
    """Attempt to run the training, from the creation of its launcher pod to its end."""

    model_config = ConfigDict(frozen=False)

    number: PositiveInt
    """Number of the attempt, starting at 1."""

    start_time: Time
    """Time at which the launcher was created."""

    end_time: Time | None = None
    """Time at which the end of the attempt was observed. Unset while the attempt is in progress."""

    workers: WorkerCount | None = None
    """Number of workers of the attempt."""

    checkpoint_step_before: Count | None = None
    """Step of the newest checkpoint when the attempt started."""

    resumed_step: Count | None = None
    """Step from which the attempt resumed; 0 without a checkpoint."""

    start_message: Text | None = None
    """Why the attempt resumed from an earlier step than that of the newest checkpoint. Unset if it did not."""

    checkpoint_step: Count | None = None
    """Step of the newest checkpoint when the attempt ended."""

    cause: Text | None = None
    """Cause of the end, such as completed, disrupted or crashed."""

    message: Text | None = None
    """Details about the end of the attempt."""

    exit_code: ExitCode | None = None
    """Exit code of the launcher, or of the worker that failed."""

    pod: Text | None = None
    """Pod that caused the end of the attempt."""

    node: Text | None = None
    """Node of the pod that caused the end of the attempt."""

    rank: Count | None = None
    """Rank that caused the end of the attempt."""

    log: Lines = []
    """Last lines of the log of the pod that caused the end of the attempt."""

    @property
    def ended(self) -> bool:
        return self.end_time is not None


class FailedStart(StatusModel):
    """Worker that exited before an attempt started."""

    time: Time
    """Time at which the failure was observed."""

    pod: Text
    """Name of the worker pod."""

    node: Text | None = None
    """Node of the pod."""

    reason: Text | None = None
    """Reason from the termination of the container, such as StartError."""

    exit_code: ExitCode | None = None
    """Exit status from the termination of the container."""

    message: Text
    """Details about the failure."""

    log: Lines = []
    """Last lines of the log of the pod."""


def consistent_attempts(stored: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts of a stored status, without values that the operator never writes."""
    attempts = _in_order(stored)
    for attempt in attempts:
        # An attempt that has ended has a cause; only then are the other fields of its end valid.
        if attempt.end_time is None or attempt.cause is None:
            for name in _END_FIELDS:
                setattr(attempt, name, AttemptStatus.model_fields[name].get_default())
    return [each for each in attempts[:-1] if each.ended] + attempts[-1:]


def _in_order(attempts: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts with ascending numbers; others are omitted."""
    kept: list[AttemptStatus] = []
    for each in attempts:
        if not kept or each.number > kept[-1].number:
            kept.append(each)
    return kept
