"""The end of a training."""

from resnext_operator.api.status import ConditionType, Phase
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.attempt_cause import AttemptCause
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.pending_deadline_exceeded import pending_deadline_exceeded
from resnext_operator.domain.rules.rule import first_match
from resnext_operator.domain.workers import ready_workers


def succeed(draft: Draft, reason: Reason, message: str) -> None:
    """Mark the training as succeeded."""
    _finish(draft, Phase.SUCCEEDED, reason, message)
    draft.conditions.set(ConditionType.SUCCEEDED, True, reason, message)


def fail(draft: Draft, reason: Reason, message: str) -> None:
    """Mark the training as failed."""
    _finish(draft, Phase.FAILED, reason, message)
    draft.conditions.set(ConditionType.FAILED, True, reason, message)


def count_failure(draft: Draft, message: str) -> bool:
    """Count a failure. Returns whether the training fails because of runPolicy.backoffLimit."""
    draft.status.failures += 1
    if draft.status.failures <= draft.training.spec.run_policy.backoff_limit:
        return False
    limit = f"number of failures ({draft.status.failures}) exceeds runPolicy.backoffLimit; last failure: {message}"
    fail(draft, Reason.BACKOFF_LIMIT_EXCEEDED, limit)
    return True


def fail_if_pending_too_long(draft: Draft) -> bool:
    """Fail the training if its pods did not start in time. Returns whether it failed."""
    stop = first_match(draft, [pending_deadline_exceeded])
    if stop is None:
        return False
    if attempt := draft.attempt:
        attempt.end_time, attempt.cause, attempt.message = draft.second, AttemptCause.STOPPED.value, stop.summary
    fail(draft, stop.reason, stop.message)
    return True


def count_remaining_workers(draft: Draft, reason: Reason) -> None:
    """Set the number of workers that are kept after the end of the training."""
    stay = draft.training.spec.run_policy.clean_pod_policy == "None"
    remaining = ready_workers(draft) if stay else 0
    set_workers_ready(draft, remaining, reason)
    if not remaining and draft.conditions.is_true(ConditionType.SCHEDULED):
        draft.conditions.set(ConditionType.SCHEDULED, False, reason, "no pods")


def _finish(draft: Draft, phase: Phase, reason: Reason, message: str) -> None:
    draft.create.clear()
    draft.status.rejection = None
    draft.status.completion_time = draft.second
    draft.transition_to(phase, reason, message, bad=phase is Phase.FAILED)
    draft.conditions.set(ConditionType.RUNNING, False, reason, message)
    count_remaining_workers(draft, reason)
