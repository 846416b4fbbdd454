"""The end of an attempt, and its consequences for the training."""

from datetime import timedelta

from resnext_operator.api.status import ConditionType, Phase
from resnext_operator.domain import startup
from resnext_operator.domain.actions.finish import count_failure, fail, succeed
from resnext_operator.domain.actions.progress import record_progress
from resnext_operator.domain.attempt_cause import REASONS, AttemptCause
from resnext_operator.domain.attempt_outcome import AttemptObservation, AttemptOutcome
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.deadline_exceeded import deadline_exceeded
from resnext_operator.domain.rules.rule import StopReason, first_match
from resnext_operator.domain.rules.stalled_too_long import stalled_too_long
from resnext_operator.domain.workers import live_workers


def finish_attempt_if_over(draft: Draft, stop: StopReason | None) -> None:
    """Record the end of the current attempt if its pods show it.

    stop: the reason to stop the attempt, if any.
    """
    stopping = draft.phase is Phase.STOPPING or stop is not None
    living, newest = live_workers(draft), {pod.index: pod for pod in draft.state.workers}
    launched = draft.attempts[-1].workers or draft.replicas
    workers = [living.get(index) or newest.get(index) for index in range(launched)]
    outcome = AttemptObservation(draft.training, draft.launcher, workers, stopping).classify(draft.now)
    if isinstance(outcome, timedelta):
        draft.requeue_at(draft.now + outcome)
    elif outcome is not None:
        if outcome.cause is AttemptCause.STOPPED and first_match(draft, [stalled_too_long]):
            stalled = draft.conditions.message(ConditionType.STALLED)
            outcome = AttemptOutcome(AttemptCause.HUNG, stalled, outcome.exit_code, counts_toward_backoff=True)
        _record_attempt_end(draft, outcome)


def _record_attempt_end(draft: Draft, outcome: AttemptOutcome) -> None:
    if (launcher := draft.launcher) and launcher.report and launcher.report.progress:
        record_progress(draft, launcher.report.progress)
    attempt, status = draft.attempts[-1], draft.status
    outcome.record_in(attempt, draft.second)
    attempt.checkpoint_step = status.checkpoint.step if status.checkpoint else None
    startup.account(status, draft.state.workers)
    draft.evidence_is_recorded = False
    reason = REASONS[outcome.cause]
    if draft.conditions.is_true(ConditionType.STALLED):
        draft.conditions.set(ConditionType.STALLED, False, reason)
    if outcome.succeeded:
        succeed(draft, reason, outcome.message)
    elif outcome.is_permanent:
        fail(draft, reason, outcome.message)
    elif not (outcome.counts_toward_backoff and count_failure(draft, outcome.message)):
        if outcome.cause is AttemptCause.DISRUPTED:
            status.disruptions += 1
        _restart(draft, reason, outcome)


def _restart(draft: Draft, reason: Reason, outcome: AttemptOutcome) -> None:
    """Start another attempt, unless the training is suspended or its deadline is exceeded."""
    draft.conditions.set(ConditionType.RUNNING, False, reason, outcome.message)
    if not draft.training.spec.suspend and not first_match(draft, [deadline_exceeded]):
        bad = outcome.cause is not AttemptCause.STOPPED
        draft.transition_to(Phase.RESTARTING, reason, outcome.message, bad=bad)
