"""The deadline of a stall."""

from datetime import timedelta

from resnext_operator.api.status import ConditionType
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import Recheck, StopReason, due


def stalled_too_long(draft: Draft) -> StopReason | Recheck | None:
    """Stop if the training has been Stalled for runPolicy.stallDeadlineSeconds."""
    if not draft.conditions.is_true(ConditionType.STALLED):
        return None
    seconds = draft.training.spec.run_policy.stall_deadline_seconds
    deadline = draft.conditions.last_transition_time(ConditionType.STALLED) + timedelta(seconds=seconds)
    if not due(draft, deadline):
        return Recheck(deadline)
    message = draft.conditions.message(ConditionType.STALLED)
    return StopReason(Reason.HUNG, f"stalled for {seconds} s (runPolicy.stallDeadlineSeconds): {message}")
