"""The status of a training. The CRD's schema is generated from the models below.

The stored status can contain anything that a user with access to `/status` wrote. `Status.parse` omits each value that
it cannot parse, so the next status that the operator writes replaces it. Unknown fields, such as those of a newer
version, are kept while they are small.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema

from resnext_operator.api.attempts import (
    MAX_RECORDED_ATTEMPTS,
    MAX_RECORDED_STARTS,
    AttemptStatus,
    FailedStart,
    consistent_attempts,
)
from resnext_operator.api.status_fields import (
    TEXT_SCHEMA,
    Count,
    Lines,
    Number,
    PreciseTime,
    Seconds,
    StatusModel,
    Tally,
    Text,
    Time,
    displayed_time,
    last,
)


class Phase(StrEnum):
    """Phase in the lifecycle of a training."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class ConditionType(StrEnum):
    """Types of the conditions of a training."""

    ACCEPTED = "Accepted"
    SPEC_INVALID = "SpecInvalid"
    PODS_INVALID = "PodsInvalid"
    SCHEDULED = "Scheduled"
    WORKERS_READY = "WorkersReady"
    RUNNING = "Running"
    STALLED = "Stalled"
    CHECKPOINTED = "Checkpointed"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_GENERATION = WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0})
"""As in metav1.Condition. Helm would write a maximum of 2**53 as a float, which conflicts with the stored one."""


class Condition(StatusModel):
    """One aspect of the current state of the training, as in metav1.Condition."""

    type: Annotated[str, Field(max_length=316, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$")]
    """Type of condition in CamelCase."""

    status: Literal["True", "False", "Unknown"]
    """Status of the condition, one of True, False, Unknown."""

    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Programmatic identifier indicating the reason for the condition's last transition."""

    message: Text
    """Human readable message indicating details about the transition."""

    observed_generation: Annotated[Count, _GENERATION] | None = None
    """metadata.generation that the condition was set based upon."""

    last_transition_time: Time
    """Last time the condition transitioned from one status to another."""


class RejectionStatus(StatusModel):
    """Object that the API server rejected."""

    cause: Text
    """Cause of the rejection, such as Quota, PodSecurity or Invalid."""

    role: Text = ""
    """Role of the pod: worker or launcher. Empty for other objects."""

    message: Text
    """Message of the API server, and a suggested action."""

    since: Time
    """Time of the first rejection."""

    retry_time: PreciseTime
    """Time of the next retry."""

    held_since: PreciseTime | None = None
    """Time at which the other pods of the training started to wait for the rejected one."""

    tries: Tally = 0
    """Number of consecutive rejections."""

    released: Tally = 0
    """Number of times that the other pods were deleted because not all pods were admitted within
    runPolicy.admissionTimeoutSeconds."""

    generation: Count | None = None
    """metadata.generation of the rejected spec."""


class WorkersStatus(StatusModel):
    """Number of worker pods."""

    model_config = ConfigDict(extra="ignore")

    replicas: Count
    """Number of workers."""

    ready: Count
    """Number of workers with a Ready condition."""


class ProgressStatus(StatusModel):
    """Progress of the training over all attempts."""

    epoch: Number | None = None
    """Number of completed epochs, including the fraction of the current one."""

    epochs: Count
    """Total number of epochs."""

    step: Count
    """Number of completed steps."""

    steps: Count
    """Total number of steps."""

    images_per_second: Number | None = None
    """Training throughput over all ranks. Unset while no steps complete."""

    loss: Number | None = None
    """Training loss, averaged over the last few seconds."""

    top1: Number | None = None
    """Top-1 accuracy of the last evaluation, between 0 and 1."""

    top5: Number | None = None
    """Top-5 accuracy of the last evaluation, between 0 and 1."""

    best_top1: Number | None = None
    """Best top-1 accuracy of all evaluations, between 0 and 1."""

    estimated_completion_time: Time | None = None
    """Estimated time of completion at the throughput of the current attempt."""

    updated_time: Time
    """Last time the progress changed."""


class CheckpointStatus(StatusModel):
    """The newest checkpoint."""

    step: Count
    """Step of the checkpoint."""

    time: Annotated[str, PlainValidator(displayed_time), TEXT_SCHEMA]
    """Time at which the checkpoint was saved."""

    path: Text
    """Directory of the checkpoint in worker 0."""

    differences: Lines = []
    """Differences of recipe and dataset from those of the resumed run (onMismatch: continue)."""


class ActivitySeconds(StatusModel):
    """Wall time in seconds by activity."""

    steps: Seconds = 0.0
    """Steps that were kept."""

    lost: Seconds = 0.0
    """Steps that were repeated after a failure or a rollback, and the time until a failure was observed."""

    compilation: Seconds = 0.0
    """Compilation of the training step."""

    evaluation: Seconds = 0.0
    """Evaluations."""

    checkpoint: Seconds = 0.0
    """Time for which the training waited for a checkpoint."""

    startup: Seconds = 0.0
    """From the creation of a launcher to the first step, without compilation."""

    queueing: Seconds = 0.0
    """Waiting for pods to run, including the backoff after failures."""

    other: Seconds = 0.0
    """Everything else, such as stopping."""


class GoodputStatus(StatusModel):
    """Use of the wall time since the start of the training, without the time for which it was suspended."""

    ratio: Annotated[float, Field(ge=0, le=1)]
    """Fraction of the wall time that went into steps that were kept, between 0 and 1."""

    seconds: ActivitySeconds = ActivitySeconds()
    """Wall time by activity."""


class Summary(StatusModel):
    """Formatted values of the columns of `kubectl get`."""

    workers: Text | None = None
    """Ready and total number of workers."""

    epoch: Text | None = None
    """Completed and total number of epochs."""

    percent: Text | None = None
    """Percentage of completed steps."""

    images_per_second: Text | None = None
    """Training throughput over all ranks."""

    loss: Text | None = None
    """Training loss."""

    top1: Text | None = None
    """Top-1 accuracy of the last evaluation."""

    eta: Text | None = None
    """Estimated remaining time."""


class OperatorState(StatusModel):
    """Internal state of the operator between reconciliations. Its fields can change in any version."""

    step_seconds: Annotated[list[Annotated[float, Field(gt=0, le=2**53)]], last(100)] = []
    """Latest samples of the step time of the current attempt."""

    first_step: Count | None = None
    """First step that was observed in the current attempt."""

    first_time: Time | None = None
    """Time at which firstStep was observed."""

    pods_accounted_until: Time | None = None
    """Creation time of the newest worker whose termination has been counted."""

    accounted_until: PreciseTime | None = None
    """Time until which goodput accounts for the wall time."""

    reported: ActivitySeconds = ActivitySeconds()
    """Wall time of the last attempt that its ranks have reported."""


class Status(StatusModel):
    """Most recently observed status of the training. Populated by the operator. Read-only."""

    model_config = ConfigDict(frozen=False)

    phase: Annotated[Phase, Field(strict=False), TEXT_SCHEMA] | None = None
    """Phase of the training, one of Pending, Starting, Running, Stopping, Suspended, Restarting, Succeeded, Failed."""

    reason: Text | None = None
    """Reason for the last transition, in CamelCase."""

    observed_generation: Count | None = None
    """metadata.generation that the status was set based upon."""

    start_time: Time | None = None
    """Time at which the operator started the training. Reset when the training is resumed from suspension.
    runPolicy.activeDeadlineSeconds is relative to this time."""

    completion_time: Time | None = None
    """Time at which the training succeeded or failed."""

    conditions: Annotated[list[Condition], last(64)] = []
    """Latest available observations of the training's current state."""

    attempts: Annotated[list[AttemptStatus], last(MAX_RECORDED_ATTEMPTS)] = []
    """The last ten attempts, newest last."""

    failures: Tally = 0
    """Number of failures. If it exceeds runPolicy.backoffLimit, the training is marked as failed."""

    disruptions: Tally = 0
    """Number of attempts that ended because a pod was evicted, preempted or deleted, or its node was lost."""

    failed_starts: Annotated[list[FailedStart], last(MAX_RECORDED_STARTS)] = []
    """Failed starts of workers since the last attempt."""

    rejection: RejectionStatus | None = None
    """Latest rejection by the API server. Unset when all pods exist."""

    workers: WorkersStatus | None = None
    """Number of worker pods."""

    progress: ProgressStatus | None = None
    """Progress of the training over all attempts."""

    checkpoint: CheckpointStatus | None = None
    """The newest checkpoint."""

    goodput: GoodputStatus | None = None
    """Use of the wall time since the start of the training."""

    summary: Summary | None = None
    """Formatted values of the columns of `kubectl get`."""

    operator_state: OperatorState = OperatorState()
    """Internal state of the operator. Its fields can change in any version."""

    @classmethod
    def parse(cls, stored: Any) -> Self:
        """The fields of a stored status that can be parsed."""
        status = super().parse(stored)
        status._resolve_contradictions()
        return status

    def copy_to_change(self) -> Self:
        """A copy that may be changed, including its attempts."""
        return self.model_copy(update={"attempts": [each.model_copy() for each in self.attempts]})

    def condition(self, kind: str) -> Condition | None:
        return next((each for each in self.conditions if each.type == kind), None)

    @property
    def last_attempt(self) -> AttemptStatus | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def last_attempt_number(self) -> int:
        """Number of the last attempt; 0 before the first."""
        return self.attempts[-1].number if self.attempts else 0

    def _resolve_contradictions(self) -> None:
        """Correct combinations of values that the operator never writes and cannot handle."""
        self.conditions = list({each.type: each for each in self.conditions}.values())
        self.attempts = consistent_attempts(self.attempts)
        if (self.operator_state.first_step is None) != (self.operator_state.first_time is None):
            self.operator_state = self.operator_state.model_copy(update={"first_step": None, "first_time": None})
        # Without its phase a finished training would run again.
        if self.phase is None:
            ended = (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)
            self.phase = next((phase for phase in ended if _holds(self.condition(phase.value))), None)
        if self.phase and self.phase.ended and self.completion_time is None:
            last = self.condition(self.phase.value)
            self.completion_time = last.last_transition_time if last else None


def _holds(condition: Condition | None) -> bool:
    return condition is not None and condition.status == "True"
