"""Attempts in the status: launches of a training, and starts of its workers that failed before one."""

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
"""Fields of an attempt that only its end sets."""


class AttemptStatus(StatusModel):
    """One launch of the training: from the creation of its launcher pod to its end."""

    model_config = ConfigDict(frozen=False)

    number: PositiveInt
    """Number of the attempt, from 1."""

    start_time: Time
    """When the launcher was created."""

    end_time: Time | None = None
    """When the end of the attempt was observed; unset while it is under way."""

    workers: WorkerCount | None = None
    """Number of workers that the attempt was started on."""

    checkpoint_step_before: Count | None = None
    """Step of the newest checkpoint when the attempt was started."""

    resumed_step: Count | None = None
    """Step that the attempt started from; 0 without a checkpoint."""

    start_message: Text | None = None
    """Why the attempt started from an earlier step than the newest checkpoint, if it did."""

    checkpoint_step: Count | None = None
    """Step of the newest checkpoint when the attempt ended."""

    cause: Text | None = None
    """Why the attempt ended, such as completed, disrupted or crashed."""

    message: Text | None = None
    """Details of the end."""

    exit_code: ExitCode | None = None
    """Exit code of the launcher, or of the worker that failed."""

    pod: Text | None = None
    """Pod that the end is attributed to."""

    node: Text | None = None
    """Node of that pod."""

    rank: Count | None = None
    """Rank that the end is attributed to."""

    log: Lines = []
    """Last lines of that pod's log."""

    @property
    def ended(self) -> bool:
        return self.end_time is not None


class FailedStart(StatusModel):
    """A worker that ended before an attempt began."""

    time: Time
    """When the failure was observed."""

    pod: Text
    """Name of the worker pod."""

    node: Text | None = None
    """Node of the pod."""

    reason: Text | None = None
    """Reason of the container's end, such as StartError."""

    exit_code: ExitCode | None = None
    """Exit code of the container."""

    message: Text
    """The failure in one sentence."""

    log: Lines = []
    """Last lines of the pod's log."""


def consistent_attempts(stored: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """The attempts of a stored status without what the operator never writes."""
    attempts = _in_order(stored)
    for attempt in attempts:
        # An attempt ended with a cause, and only then was there something to blame.
        if attempt.end_time is None or attempt.cause is None:
            for name in _END_FIELDS:
                setattr(attempt, name, AttemptStatus.model_fields[name].get_default())
    return [each for each in attempts[:-1] if each.ended] + attempts[-1:]


def _in_order(attempts: Iterable[AttemptStatus]) -> list[AttemptStatus]:
    """In the order of their numbers, as they were written."""
    kept: list[AttemptStatus] = []
    for each in attempts:
        if not kept or each.number > kept[-1].number:
            kept.append(each)
    return kept
