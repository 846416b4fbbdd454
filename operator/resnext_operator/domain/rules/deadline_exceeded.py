"""The active deadline of a training."""

from datetime import timedelta

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import Recheck, StopReason, due


def deadline_exceeded(draft: Draft) -> StopReason | Recheck | None:
    """Stop runPolicy.activeDeadlineSeconds after the start time. A suspended training has no deadline."""
    seconds, started = draft.training.spec.run_policy.active_deadline_seconds, draft.status.start_time
    if seconds is None or started is None or draft.training.spec.suspend:
        return None
    deadline = started + timedelta(seconds=seconds)
    if not due(draft, deadline):
        return Recheck(deadline)
    message = f"ran for {seconds} s (runPolicy.activeDeadlineSeconds): saving a checkpoint"
    return StopReason(Reason.DEADLINE_EXCEEDED, message)
