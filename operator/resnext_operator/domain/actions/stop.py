"""Stopping an attempt, and suspending a training."""

from resnext_operator.api.status import ConditionType, Phase
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason
from resnext_operator.domain.workers import ready_workers


def stop_launcher(draft: Draft, stop: StopReason) -> None:
    """Delete the launcher: its SIGTERM makes the ranks save a checkpoint."""
    draft.transition_to(Phase.STOPPING, stop.reason, stop.message)
    set_workers_ready(draft, ready_workers(draft))
    if (launcher := draft.launcher) and not launcher.finished:
        draft.delete_pods([launcher])


def suspend(draft: Draft) -> None:
    """Delete all pods of a training without a current attempt. Without pods the phase is Suspended."""
    launchers = [each for each in draft.state.launchers if not each.deleted]
    if draft.state.workers or launchers:
        if draft.phase is not Phase.SUSPENDED:
            draft.transition_to(Phase.STOPPING, Reason.SUSPENDING, "deleting pods")
        set_workers_ready(draft, ready_workers(draft))
        if draft.evidence_is_recorded:
            draft.delete_pods(draft.state.workers)
            draft.delete_pods(launchers)
    elif draft.phase is not Phase.SUSPENDED:
        message = "the training is suspended: set spec.suspend to false to resume from the last checkpoint"
        draft.transition_to(Phase.SUSPENDED, Reason.SUSPENDED, message)
        reason = Reason.SUSPENDED
        draft.conditions.set(ConditionType.SUSPENDED, True, reason, "no pods; the checkpoint is kept")
        draft.conditions.set(ConditionType.RUNNING, False, reason)
        draft.conditions.set(ConditionType.SCHEDULED, False, reason, "no pods")
        set_workers_ready(draft, 0, reason)
