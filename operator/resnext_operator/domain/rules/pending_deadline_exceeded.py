"""The deadline for the start of the pods."""

from datetime import datetime, timedelta

from resnext_operator.api.status import ConditionType
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import Recheck, StopReason, due


def pending_deadline_exceeded(draft: Draft) -> StopReason | Recheck | None:
    """Stop if workers or launcher have not started within runPolicy.pendingDeadlineSeconds."""
    seconds = draft.training.spec.run_policy.pending_deadline_seconds
    if seconds is None:
        return None
    since = draft.attempt.start_time if draft.attempt else pending_since(draft)
    deadline = since + timedelta(seconds=seconds)
    if not due(draft, deadline):
        return Recheck(deadline)
    scheduled = ConditionType.SCHEDULED
    detail = draft.conditions.message(scheduled) if draft.conditions.is_false(scheduled) else ""
    if draft.status.failed_starts:
        detail = draft.status.failed_starts[-1].message
    summary = f"pods did not start within {seconds} s (runPolicy.pendingDeadlineSeconds)"
    return StopReason(Reason.PENDING_DEADLINE_EXCEEDED, summary, detail)


def pending_since(draft: Draft) -> datetime:
    """Time since which not all workers are ready; not before the start time or the end of the last attempt."""
    last, started = draft.status.last_attempt, draft.status.start_time or draft.second
    changed = draft.conditions.last_transition_time(ConditionType.WORKERS_READY)
    # Deleting pods because others are rejected does not restart the deadline.
    rejected = draft.rejection.since if draft.rejection else changed
    ended = last.end_time if last and last.end_time else started
    return max(ended, started, min(changed, rejected))
