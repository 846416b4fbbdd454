"""Why an attempt ended: from the launcher's exit status to the cause in the status, and on to the reason users read."""

from enum import StrEnum

from resnext_operator.domain.reasons import Reason
from resnext_trainer.contract import ExitStatus


class AttemptCause(StrEnum):
    """`status.attempts[].cause`, and the label of the metric that counts finished attempts."""

    FINISHED = "finished"
    STOPPED = "stopped"
    DISRUPTION = "disruption"
    """A pod was evicted, preempted or deleted, or its node is lost."""
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    WRONG_WORLD = "wrong_world"
    UNREACHABLE = "unreachable"
    NO_GPU = "no_gpu"
    HUNG = "hung"
    CONFIGURATION_REFUSED = "configuration_refused"
    DATA_REFUSED = "data_refused"
    NOT_FINITE = "not_finite"
    NO_GOOD_CHECKPOINT = "no_good_checkpoint"
    CHECKPOINT_NOT_SAVED = "checkpoint_not_saved"
    CHECKPOINT_LOCKED = "checkpoint_locked"
    SYSTEM_ERROR = "system_error"


CAUSES: dict[ExitStatus, AttemptCause] = {
    ExitStatus.FINISHED: AttemptCause.FINISHED,
    ExitStatus.STOPPED: AttemptCause.STOPPED,
    ExitStatus.CRASHED: AttemptCause.CRASHED,
    ExitStatus.WRONG_WORLD: AttemptCause.WRONG_WORLD,
    ExitStatus.UNREACHABLE: AttemptCause.UNREACHABLE,
    ExitStatus.NO_GPU: AttemptCause.NO_GPU,
    ExitStatus.HUNG: AttemptCause.HUNG,
    ExitStatus.CONFIGURATION_REFUSED: AttemptCause.CONFIGURATION_REFUSED,
    ExitStatus.DATA_REFUSED: AttemptCause.DATA_REFUSED,
    ExitStatus.NOT_FINITE: AttemptCause.NOT_FINITE,
    ExitStatus.NO_GOOD_CHECKPOINT: AttemptCause.NO_GOOD_CHECKPOINT,
    ExitStatus.CHECKPOINT_NOT_SAVED: AttemptCause.CHECKPOINT_NOT_SAVED,
    ExitStatus.CHECKPOINT_LOCKED: AttemptCause.CHECKPOINT_LOCKED,
    ExitStatus.SYSTEM_ERROR: AttemptCause.SYSTEM_ERROR,
}
"""The cause that an exit status of the launcher stands for, where no pod's loss explains it."""

REASONS: dict[AttemptCause, Reason] = {
    AttemptCause.FINISHED: Reason.FINISHED,
    AttemptCause.STOPPED: Reason.STOPPED,
    AttemptCause.DISRUPTION: Reason.DISRUPTION,
    AttemptCause.CRASHED: Reason.CRASHED,
    AttemptCause.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    AttemptCause.WRONG_WORLD: Reason.WRONG_WORLD,
    AttemptCause.UNREACHABLE: Reason.UNREACHABLE,
    AttemptCause.NO_GPU: Reason.NO_GPU,
    AttemptCause.HUNG: Reason.HUNG,
    AttemptCause.CONFIGURATION_REFUSED: Reason.CONFIGURATION_REFUSED,
    AttemptCause.DATA_REFUSED: Reason.DATA_REFUSED,
    AttemptCause.NOT_FINITE: Reason.NOT_FINITE,
    AttemptCause.NO_GOOD_CHECKPOINT: Reason.NO_GOOD_CHECKPOINT,
    AttemptCause.CHECKPOINT_NOT_SAVED: Reason.CHECKPOINT_NOT_SAVED,
    AttemptCause.CHECKPOINT_LOCKED: Reason.CHECKPOINT_LOCKED,
    AttemptCause.SYSTEM_ERROR: Reason.SYSTEM_ERROR,
}
"""The reason in conditions and events."""
