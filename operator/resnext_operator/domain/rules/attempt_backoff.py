"""Backoff after a failed attempt."""

from resnext_operator.domain.attempt_cause import AttemptCause
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.rules.rule import Recheck, due
from resnext_operator.domain.startup import backoff


def attempt_backoff(draft: Draft) -> Recheck | None:
    """No attempt starts before the backoff for the number of failures has elapsed. Disruptions have no backoff."""
    last = draft.status.last_attempt
    if last is None or last.end_time is None or last.cause in (None, AttemptCause.DISRUPTED, AttemptCause.STOPPED):
        return None
    over = last.end_time + backoff(draft.status.failures)
    return None if due(draft, over) else Recheck(over)
