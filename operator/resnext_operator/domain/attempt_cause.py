"""Causes of the end of an attempt, and their mapping from exit statuses of the launcher and to reasons."""

from enum import StrEnum

from resnext_operator.domain.reasons import Reason
from resnext_trainer.contract import ExitStatus


class AttemptCause(StrEnum):
    """`status.attempts[].cause`, and the label of the metric that counts finished attempts."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    DISRUPTED = "disrupted"
    """A pod was evicted, preempted or deleted, or its node was lost."""
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    WORLD_SIZE_MISMATCH = "world_size_mismatch"
    UNREACHABLE = "unreachable"
    GPU_UNAVAILABLE = "gpu_unavailable"
    HUNG = "hung"
    INVALID_CONFIGURATION = "invalid_configuration"
    INVALID_DATA = "invalid_data"
    NON_FINITE_LOSS = "non_finite_loss"
    NO_VALID_CHECKPOINT = "no_valid_checkpoint"
    CHECKPOINT_NOT_SAVED = "checkpoint_not_saved"
    CHECKPOINT_LOCKED = "checkpoint_locked"
    SYSTEM_ERROR = "system_error"


CAUSES: dict[ExitStatus, AttemptCause] = {
    ExitStatus.COMPLETED: AttemptCause.COMPLETED,
    ExitStatus.STOPPED: AttemptCause.STOPPED,
    ExitStatus.CRASHED: AttemptCause.CRASHED,
    ExitStatus.WORLD_SIZE_MISMATCH: AttemptCause.WORLD_SIZE_MISMATCH,
    ExitStatus.UNREACHABLE: AttemptCause.UNREACHABLE,
    ExitStatus.GPU_UNAVAILABLE: AttemptCause.GPU_UNAVAILABLE,
    ExitStatus.HUNG: AttemptCause.HUNG,
    ExitStatus.INVALID_CONFIGURATION: AttemptCause.INVALID_CONFIGURATION,
    ExitStatus.INVALID_DATA: AttemptCause.INVALID_DATA,
    ExitStatus.NON_FINITE_LOSS: AttemptCause.NON_FINITE_LOSS,
    ExitStatus.NO_VALID_CHECKPOINT: AttemptCause.NO_VALID_CHECKPOINT,
    ExitStatus.CHECKPOINT_NOT_SAVED: AttemptCause.CHECKPOINT_NOT_SAVED,
    ExitStatus.CHECKPOINT_LOCKED: AttemptCause.CHECKPOINT_LOCKED,
    ExitStatus.SYSTEM_ERROR: AttemptCause.SYSTEM_ERROR,
}
"""The cause for an exit status of the launcher, if the failure of another pod does not explain it."""

REASONS: dict[AttemptCause, Reason] = {
    AttemptCause.COMPLETED: Reason.COMPLETED,
    AttemptCause.STOPPED: Reason.STOPPED,
    AttemptCause.DISRUPTED: Reason.DISRUPTED,
    AttemptCause.CRASHED: Reason.CRASHED,
    AttemptCause.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    AttemptCause.WORLD_SIZE_MISMATCH: Reason.WORLD_SIZE_MISMATCH,
    AttemptCause.UNREACHABLE: Reason.UNREACHABLE,
    AttemptCause.GPU_UNAVAILABLE: Reason.GPU_UNAVAILABLE,
    AttemptCause.HUNG: Reason.HUNG,
    AttemptCause.INVALID_CONFIGURATION: Reason.INVALID_CONFIGURATION,
    AttemptCause.INVALID_DATA: Reason.INVALID_DATA,
    AttemptCause.NON_FINITE_LOSS: Reason.NON_FINITE_LOSS,
    AttemptCause.NO_VALID_CHECKPOINT: Reason.NO_VALID_CHECKPOINT,
    AttemptCause.CHECKPOINT_NOT_SAVED: Reason.CHECKPOINT_NOT_SAVED,
    AttemptCause.CHECKPOINT_LOCKED: Reason.CHECKPOINT_LOCKED,
    AttemptCause.SYSTEM_ERROR: Reason.SYSTEM_ERROR,
}
"""The reason in conditions and events, by cause."""
