"""Backoff after the API server has rejected an object."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.rules.rule import Recheck, due


def rejection_backoff(draft: Draft) -> Recheck | None:
    """Nothing is created before the time of the retry."""
    if draft.rejection is None or due(draft, draft.rejection.retry_time):
        return None
    return Recheck(draft.rejection.retry_time)
