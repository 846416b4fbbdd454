"""Whether the operator accepts a training, and since when it runs."""

from resnext_operator.api.status import ConditionType
from resnext_operator.domain import admission
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.plan import Event
from resnext_operator.domain.reasons import Reason, warning


def check_admission(draft: Draft) -> admission.Refusal | None:
    """Why no attempt may begin; one that is under way keeps its pods, and as many as it has."""
    training, conditions = draft.training, draft.conditions
    if training.invalid:
        _note_invalid_spec(draft)
        return None
    if conditions.is_true(ConditionType.SPEC_INVALID):
        conditions.set(ConditionType.SPEC_INVALID, False, Reason.ACCEPTED)
    unshared = admission.check_claim_access(training, draft.state, draft.replicas)
    taken = admission.check_claim_owner(training, draft.state)
    refusal = admission.check_operator_policy(training) or taken or unshared
    if refusal is None:
        if not conditions.is_true(ConditionType.ACCEPTED):
            conditions.set(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "spec accepted")
            world = draft.replicas * training.spec.workers.ranks
            message = f"starting {world} ranks on {draft.replicas} workers with mpirun"
            draft.events.append(Event("Normal", Reason.ACCEPTED, message))
        return None
    if conditions.message(ConditionType.ACCEPTED) != refusal[1]:
        draft.events.append(warning(*refusal))
    conditions.set(ConditionType.ACCEPTED, False, *refusal)
    if (last := draft.status.last_attempt) and refusal == unshared:
        # With as many workers as it had before it may go on, also after a failure.
        draft.replicas = last.workers or draft.replicas
        return None
    return refusal


def _note_invalid_spec(draft: Draft) -> None:
    """An earlier version accepted the spec: what runs goes on, and nothing new can be created."""
    if draft.conditions.message(ConditionType.SPEC_INVALID) != draft.training.invalid:
        draft.events.append(warning(Reason.SPEC_INVALID, draft.training.invalid))
    draft.conditions.set(ConditionType.SPEC_INVALID, True, Reason.SPEC_INVALID, draft.training.invalid)


def set_start_time(draft: Draft) -> None:
    """The start time, from which the deadline counts: none before the first resume, and reset at each."""
    if draft.training.spec.suspend:
        return
    if draft.conditions.is_true(ConditionType.SUSPENDED):
        draft.conditions.set(ConditionType.SUSPENDED, False, Reason.RESUMED)
        draft.status.start_time = draft.second
        # What failed to start may have been corrected meanwhile: no pause from before counts.
        draft.status.failed_starts = []
    draft.status.start_time = draft.status.start_time or draft.second
