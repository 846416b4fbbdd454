"""Time to live of a finished training."""

from datetime import timedelta

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import Recheck, StopReason, due


def ttl_expired(draft: Draft) -> StopReason | Recheck | None:
    """The training is deleted runPolicy.ttlSecondsAfterFinished after its completion."""
    seconds, completed = draft.training.spec.run_policy.ttl_seconds_after_finished, draft.status.completion_time
    if seconds is None or completed is None:
        return None
    expiry = completed + timedelta(seconds=seconds)
    return StopReason(Reason.COMPLETED, "TTL expired") if due(draft, expiry) else Recheck(expiry)
