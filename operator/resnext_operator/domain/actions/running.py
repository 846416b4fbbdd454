"""A running attempt."""

from resnext_operator.api.status import ConditionType, Phase
from resnext_operator.domain.actions.finish import fail_if_pending_too_long
from resnext_operator.domain.actions.scheduling import set_scheduled_false, waiting_advice
from resnext_operator.domain.actions.shared_objects import check_secret, ensure_shared_objects
from resnext_operator.domain.actions.stall import detect_stall
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.workers import up_to_date_workers


def reconcile_running(draft: Draft) -> None:
    """Monitor the start of the launcher and the progress of the ranks."""
    ensure_shared_objects(draft)
    if not draft.create:
        draft.status.rejection = None
    set_workers_ready(draft, sum(1 for pod in up_to_date_workers(draft) if pod and pod.ready))
    progress, number, launcher = draft.state.progress, draft.attempts[-1].number, draft.launcher
    answered = progress is not None and progress.attempt == number and progress.step > 0
    if answered and draft.phase not in (Phase.RUNNING, Phase.STOPPING):
        draft.transition_to(Phase.RUNNING, Reason.STEPS_PROGRESSING, f"attempt {number} is training")
        draft.conditions.set(ConditionType.RUNNING, True, Reason.STEPS_PROGRESSING, f"attempt {number} is training")
    if answered:
        detect_stall(draft)
    if launcher and launcher.phase == "Pending":
        if launcher.waiting_reason:
            message = f"pod {launcher.name} is not starting: {launcher.waiting_reason}"
            set_scheduled_false(draft, Reason.LAUNCHER_PENDING, message, waiting_advice(launcher, "launcher"))
        if not fail_if_pending_too_long(draft):
            check_secret(draft, [launcher])
