"""Sets of pods that are incomplete because the API server rejects some: the others wait, and are deleted on timeout."""

from datetime import timedelta

from resnext_operator.api.status import ConditionType
from resnext_operator.domain import rejections
from resnext_operator.domain.actions.finish import fail_if_pending_too_long
from resnext_operator.domain.actions.scheduling import leave_reason, set_scheduled_false
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ObservedWorker
from resnext_operator.domain.plan import ObjectRef
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.domain.rules.rejection_backoff import rejection_backoff
from resnext_operator.domain.rules.rule import due, waits_for


def admit_complete_set(draft: Draft, workers: list[ObservedWorker | None]) -> None:
    """Remove the scheduling gates when all workers exist and a dry run has admitted the launcher."""
    pods = [pod for pod in workers if pod]
    if len(pods) < len(workers):
        return
    if gated := [pod for pod in pods if pod.gated]:
        if not draft.state.launcher_admitted:
            draft.needs_launcher_admission = not waits_for(draft, rejection_backoff)
            return
        draft.ungate += [ObjectRef("Pod", pod.name, pod.uid) for pod in gated]
    elif draft.rejection and draft.rejection.role == "launcher":
        return
    if draft.rejection:
        draft.status.rejection = None
        message = "all pods are admitted and are waiting to be scheduled"
        draft.conditions.set(ConditionType.SCHEDULED, False, Reason.WORKERS_NOT_READY, message)
        leave_reason(draft, Reason.WORKERS_NOT_READY)


def release_incomplete_set(draft: Draft, workers: list[ObservedWorker | None]) -> bool:
    """Delete the pods of an incomplete set after the admission timeout, because they may occupy quota."""
    rejection, seconds = draft.rejection, draft.training.spec.run_policy.admission_timeout_seconds
    if rejection is None:
        return False
    if not any(workers):
        draft.status.rejection = rejection.model_copy(update={"held_since": None})
        return False
    since = rejection.held_since or draft.now
    draft.status.rejection = rejection = rejection.model_copy(update={"held_since": since})
    timeout = since + timedelta(seconds=seconds)
    if not due(draft, timeout) or not draft.evidence_is_recorded:
        draft.requeue_at(max(timeout, draft.now))
        return False
    draft.status.rejection, wait = rejections.released(draft.training, rejection, draft.now)
    _delete_set(draft)
    message = (
        f"not all pods were admitted within {seconds} s "
        f"(runPolicy.admissionTimeoutSeconds): deleting the admitted pods, retrying in {wait.total_seconds():.0f} s"
    )
    draft.events.append(warning(Reason.POD_CREATION_REJECTED, f"{message}: {rejection.message}"))
    set_scheduled_false(draft, Reason.POD_CREATION_REJECTED, rejection.message)
    draft.requeue_at(draft.now + wait)
    return True


def waits_for_another_spec(draft: Draft) -> bool:
    """Whether the API server reported the pods of this spec as invalid, so that a retry is useless."""
    rejection = draft.rejection
    if rejection is None or rejection.cause != rejections.Cause.INVALID:
        return False
    if rejection.generation != draft.training.generation:
        draft.status.rejection = None
        message = "the spec changed: recreating the pods"
        draft.conditions.set(ConditionType.PODS_INVALID, False, Reason.RESUMED, message)
        return False
    if draft.evidence_is_recorded:
        _delete_set(draft)
    set_workers_ready(draft, 0)
    fail_if_pending_too_long(draft)
    return True


def _delete_set(draft: Draft) -> None:
    draft.delete_pods(draft.state.workers)
    draft.delete_pods(each for each in draft.state.launchers if not each.finished)
