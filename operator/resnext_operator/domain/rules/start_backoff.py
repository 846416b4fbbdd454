"""Backoff after a failed start of the workers."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.rules.rule import Recheck, due
from resnext_operator.domain.startup import backoff


def start_backoff(draft: Draft) -> Recheck | None:
    """No worker is created before the backoff for the number of failures has elapsed."""
    if not draft.status.failed_starts:
        return None
    over = draft.status.failed_starts[-1].time + backoff(draft.status.failures)
    return None if due(draft, over) else Recheck(over)
