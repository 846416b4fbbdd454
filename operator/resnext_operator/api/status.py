"""The status of a training: what the operator stores, what users read, and what the CRD's schema is generated from.

Users who may write `/status` may have written anything. `Status.parse` omits each value that it cannot parse, so the
next status that the operator writes replaces it. Fields that this version does not know, such as those of a newer one,
are kept while they are small.
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
    StatusModel,
    Tally,
    Text,
    Time,
    displayed_time,
    last,
)


class Phase(StrEnum):
    """Where a training stands."""

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
    """What is true or false of a training."""

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
"""As metav1.Condition has it. helm would write a bound of 2**53 as a float, which conflicts with the stored one."""


class Condition(StatusModel):
    """One aspect of the training's state, as metav1.Condition."""

    type: Annotated[str, Field(max_length=316, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$")]
    """Type of the condition, in CamelCase."""

    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""

    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Reason of the last transition, in CamelCase."""

    message: Text
    """Details of the last transition."""

    observed_generation: Annotated[Count, _GENERATION] | None = None
    """metadata.generation that the condition was set for."""

    last_transition_time: Time
    """Last time that the status of the condition changed."""


class RejectionStatus(StatusModel):
    """An object that the API server does not create; kept until all pods exist."""

    cause: Text
    """Why the API server rejects it, such as Quota, PodSecurity or Invalid."""

    role: Text = ""
    """Role of the pod; empty for other objects."""

    message: Text
    """Message of the API server, and what to do."""

    since: Time
    """When it was first rejected."""

    retry_time: PreciseTime
    """When the operator tries again."""

    held_since: PreciseTime | None = None
    """Since when the other pods of the training wait for the rejected one."""

    tries: Tally = 0
    """Number of rejections in a row."""

    released: Tally = 0
    """How often the other pods were deleted because not all were admitted in time."""

    generation: Count | None = None
    """metadata.generation that was rejected."""


class WorkersStatus(StatusModel):
    """The worker pods."""

    model_config = ConfigDict(extra="ignore")

    replicas: Count
    """Number of workers that the training has."""

    ready: Count
    """Number of workers that are ready."""


class ProgressStatus(StatusModel):
    """Progress over the whole training, not over the attempt."""

    epoch: Number | None = None
    """Epochs completed, fractional."""

    epochs: Count
    """Epochs of the training."""

    step: Count
    """Steps completed."""

    steps: Count
    """Steps of the training."""

    images_per_second: Number | None = None
    """Training throughput over all ranks; unset while no step is made."""

    loss: Number | None = None
    """Training loss, averaged over the last seconds."""

    top1: Number | None = None
    """Top-1 accuracy of the last evaluation, between 0 and 1."""

    top5: Number | None = None
    """Top-5 accuracy of the last evaluation, between 0 and 1."""

    best_top1: Number | None = None
    """Best top-1 accuracy of all evaluations, between 0 and 1."""

    estimated_completion_time: Time | None = None
    """When the training completes at the throughput of this attempt."""

    updated_time: Time
    """When the progress last changed."""


class CheckpointStatus(StatusModel):
    """The newest checkpoint."""

    step: Count
    """Step that it was saved at."""

    time: Annotated[str, PlainValidator(displayed_time), TEXT_SCHEMA]
    """When it was saved."""

    path: Text
    """Its directory in the trainer's pods."""

    differences: Lines = []
    """Differences in recipe or dataset to the run that it continues (onMismatch: continue)."""


class Summary(StatusModel):
    """The columns of `kubectl get`, formatted."""

    workers: Text | None = None
    """Ready workers of all workers."""

    epoch: Text | None = None
    """Epochs completed of all epochs."""

    percent: Text | None = None
    """Steps completed, in percent."""

    images_per_second: Text | None = None
    """Training throughput over all ranks."""

    loss: Text | None = None
    """Training loss."""

    top1: Text | None = None
    """Top-1 accuracy of the last evaluation."""

    eta: Text | None = None
    """Remaining time."""


class OperatorState(StatusModel):
    """What the operator keeps for itself between reconciliations; its fields may change with each version."""

    step_seconds: Annotated[list[Annotated[float, Field(gt=0, le=2**53)]], last(100)] = []
    """Latest samples of the time of a step in the attempt under way."""

    first_step: Count | None = None
    """First step that was observed in the attempt under way."""

    first_time: Time | None = None
    """When that step was observed."""

    pods_accounted_until: Time | None = None
    """Creation time of the newest worker whose end is counted already."""


class Status(StatusModel):
    """Observed state of the training; written by the operator."""

    model_config = ConfigDict(frozen=False)

    phase: Annotated[Phase, Field(strict=False), TEXT_SCHEMA] | None = None
    """Pending, Starting, Running, Stopping, Suspended, Restarting, Succeeded or Failed."""

    reason: Text | None = None
    """Reason of the last transition, in CamelCase."""

    observed_generation: Count | None = None
    """metadata.generation that the status was written for."""

    start_time: Time | None = None
    """When the training was first reconciled, or last resumed: runPolicy.activeDeadlineSeconds counts from it."""

    completion_time: Time | None = None
    """When the training succeeded or failed."""

    conditions: Annotated[list[Condition], last(64)] = []
    """Conditions of the training."""

    attempts: Annotated[list[AttemptStatus], last(MAX_RECORDED_ATTEMPTS)] = []
    """The last ten attempts, the newest last."""

    failures: Tally = 0
    """Failures that count toward runPolicy.backoffLimit."""

    disruptions: Tally = 0
    """Attempts that ended because a pod was evicted, preempted or deleted, or lost with its node."""

    failed_starts: Annotated[list[FailedStart], last(MAX_RECORDED_STARTS)] = []
    """Failed starts since the last attempt."""

    rejection: RejectionStatus | None = None
    """What the API server rejected at the last try; unset when all pods exist."""

    workers: WorkersStatus | None = None
    """Number of workers, and how many are ready."""

    progress: ProgressStatus | None = None
    """Progress of the training."""

    checkpoint: CheckpointStatus | None = None
    """The newest checkpoint."""

    summary: Summary | None = None
    """What `kubectl get` prints."""

    operator_state: OperatorState = OperatorState()
    """Internal state of the operator."""

    @classmethod
    def parse(cls, stored: Any) -> Self:
        """The fields of a stored status that can be parsed."""
        status = super().parse(stored)
        status._resolve_contradictions()
        return status

    def copy_to_change(self) -> Self:
        """A copy whose fields, and those of its attempts, may be assigned."""
        return self.model_copy(update={"attempts": [each.model_copy() for each in self.attempts]})

    def condition(self, kind: str) -> Condition | None:
        return next((each for each in self.conditions if each.type == kind), None)

    @property
    def last_attempt(self) -> AttemptStatus | None:
        return self.attempts[-1] if self.attempts else None

    def _resolve_contradictions(self) -> None:
        """What the operator never writes, and could not go on from."""
        self.conditions = list({each.type: each for each in self.conditions}.values())
        self.attempts = consistent_attempts(self.attempts)
        if (self.operator_state.first_step is None) != (self.operator_state.first_time is None):
            self.operator_state = self.operator_state.model_copy(update={"first_step": None, "first_time": None})
        # Without its phase an ended training would run again.
        if self.phase is None:
            ended = (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)
            self.phase = next((phase for phase in ended if _holds(self.condition(phase.value))), None)
        if self.phase and self.phase.ended and self.completion_time is None:
            last = self.condition(self.phase.value)
            self.completion_time = last.last_transition_time if last else None


def _holds(condition: Condition | None) -> bool:
    return condition is not None and condition.status == "True"
