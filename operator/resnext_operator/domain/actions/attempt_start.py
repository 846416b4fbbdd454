"""The start of an attempt."""

from resnext_operator.api.attempts import AttemptStatus
from resnext_operator.api.status import Phase
from resnext_operator.domain.actions.scheduling import set_scheduled_true
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.counts import counted
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason


def record_attempt_start(draft: Draft, number: int, workers: int) -> None:
    """Record an attempt, with the step of the newest checkpoint."""
    status = draft.status
    saved = status.checkpoint.step if status.checkpoint else None
    attempt = AttemptStatus(number=number, start_time=draft.second, workers=workers, checkpoint_step_before=saved)
    status.attempts = [*status.attempts, attempt]
    status.operator_state = status.operator_state.model_copy(
        update={"step_seconds": [], "first_step": None, "first_time": None}
    )
    status.rejection, status.failed_starts = None, []
    message = f"attempt {number} started on {counted(workers, 'worker')}"
    draft.transition_to(Phase.STARTING, Reason.LAUNCHER_CREATED, message)


def adopt_orphaned_launcher(draft: Draft) -> None:
    """Record the attempt of a launcher that a previous operator process created but did not record."""
    last = draft.status.last_attempt.number if draft.status.last_attempt else 0
    newest = max(draft.state.launchers, key=lambda each: each.attempt, default=None)
    if draft.attempt is None and newest and newest.attempt > last:
        # A launcher is created only when all workers are scheduled and ready.
        set_scheduled_true(draft)
        set_workers_ready(draft, draft.replicas)
        record_attempt_start(draft, newest.attempt, newest.workers or draft.replicas)
