"""The number of ready workers."""

from resnext_operator.api.status import ConditionType, WorkersStatus
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason


def set_workers_ready(draft: Draft, ready: int, reason: Reason = Reason.WORKERS_NOT_READY) -> None:
    """Set the number of ready workers in the status.

    reason: why not all workers are ready.
    """
    everyone = ready == draft.replicas
    draft.status.workers = WorkersStatus(replicas=draft.replicas, ready=ready)
    message = f"{ready} of {draft.replicas} workers are ready"
    if not everyone and reason is Reason.WORKERS_NOT_READY and draft.status.failed_starts:
        reason, message = Reason.WORKER_START_FAILED, f"{message}; {draft.status.failed_starts[-1].message}"
    draft.conditions.set(ConditionType.WORKERS_READY, everyone, Reason.WORKERS_READY if everyone else reason, message)
