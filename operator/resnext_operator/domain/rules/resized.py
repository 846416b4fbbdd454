"""The number of workers in the spec changed."""

from resnext_operator.domain.counts import counted
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason


def resized(draft: Draft) -> StopReason | None:
    """Stop if the attempt has a different number of workers than spec.workers.replicas."""
    launched = draft.attempts[-1].workers or draft.replicas
    if draft.training.invalid or launched == draft.replicas:
        return None
    message = f"resizing from {launched} to {counted(draft.replicas, 'worker')}: saving a checkpoint first"
    return StopReason(Reason.RESIZING, message)
