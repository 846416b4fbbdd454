"""Admission of a training, and its start time."""

from resnext_operator.api.status import ConditionType
from resnext_operator.domain import admission
from resnext_operator.domain.counts import counted
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.plan import Event
from resnext_operator.domain.reasons import Reason, warning


def check_admission(draft: Draft) -> admission.Refusal | None:
    """Set the condition Accepted. Returns why no attempt may start; a current attempt keeps its number of workers."""
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
            message = f"starting {counted(world, 'rank')} on {counted(draft.replicas, 'worker')} with mpirun"
            draft.events.append(Event("Normal", Reason.ACCEPTED, message))
        return None
    if conditions.message(ConditionType.ACCEPTED) != refusal[1]:
        draft.events.append(warning(*refusal))
    conditions.set(ConditionType.ACCEPTED, False, *refusal)
    if (last := draft.status.last_attempt) and refusal == unshared:
        # The training may continue with the previous number of workers, even after a failure.
        draft.replicas = last.workers or draft.replicas
        return None
    return refusal


def _note_invalid_spec(draft: Draft) -> None:
    """An earlier version accepted the spec: running pods are kept, and no pods can be created."""
    if draft.conditions.message(ConditionType.SPEC_INVALID) != draft.training.invalid:
        draft.events.append(warning(Reason.SPEC_INVALID, draft.training.invalid))
    draft.conditions.set(ConditionType.SPEC_INVALID, True, Reason.SPEC_INVALID, draft.training.invalid)


def set_start_time(draft: Draft) -> None:
    """Set the start time; resuming a suspended training resets it."""
    if draft.training.spec.suspend:
        return
    if draft.conditions.is_true(ConditionType.SUSPENDED):
        draft.conditions.set(ConditionType.SUSPENDED, False, Reason.RESUMED)
        draft.status.start_time = draft.second
        # The cause may have been corrected in the meantime: failed starts before the suspension cause no backoff.
        draft.status.failed_starts = []
    draft.status.start_time = draft.status.start_time or draft.second
