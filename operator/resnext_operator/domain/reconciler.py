"""The decision about a training: which actions apply, in order."""

from datetime import datetime

from resnext_operator.api.groupversion import CONTROLLER_NAME
from resnext_operator.api.training import Training
from resnext_operator.domain.actions.accept import check_admission, set_start_time
from resnext_operator.domain.actions.attempt_end import finish_attempt_if_over
from resnext_operator.domain.actions.attempt_start import adopt_orphaned_launcher
from resnext_operator.domain.actions.cleanup import clean_up
from resnext_operator.domain.actions.finish import fail
from resnext_operator.domain.actions.invalid_spec import keep_pods
from resnext_operator.domain.actions.progress import record_reported_progress
from resnext_operator.domain.actions.running import reconcile_running
from resnext_operator.domain.actions.startup import reconcile_startup
from resnext_operator.domain.actions.stop import stop_launcher, suspend
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ClusterState
from resnext_operator.domain.plan import Plan
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.deadline_exceeded import deadline_exceeded
from resnext_operator.domain.rules.pod_template_changed import pod_template_changed
from resnext_operator.domain.rules.resized import resized
from resnext_operator.domain.rules.rule import Rule, first_match
from resnext_operator.domain.rules.ssh_keys_recreated import ssh_keys_recreated
from resnext_operator.domain.rules.stalled_too_long import stalled_too_long
from resnext_operator.domain.rules.suspended import suspended

STOP_RULES: tuple[Rule, ...] = (
    suspended,
    deadline_exceeded,
    resized,
    stalled_too_long,
    pod_template_changed,
    ssh_keys_recreated,
)
"""Reasons to stop the current attempt, in order of precedence; the first match wins."""


def decide(training: Training, state: ClusterState, now: datetime) -> Plan:
    """What to create, update and delete, the new status, and events to record.

    The plan is empty if another controller manages the training, or if the training is being deleted.
    """
    if training.deleting or training.spec.managed_by not in (None, CONTROLLER_NAME):
        return Plan(status=training.status)
    draft = Draft(training, state, now)
    if draft.phase.ended:
        clean_up(draft)
        return draft.plan()
    refusal = check_admission(draft)
    set_start_time(draft)
    adopt_orphaned_launcher(draft)
    record_reported_progress(draft)
    stop = first_match(draft, STOP_RULES) if draft.attempt else None
    if draft.attempt:
        finish_attempt_if_over(draft, stop)
    if training.spec.suspend:
        draft.status.rejection = None
    if draft.phase.ended:
        pass
    elif draft.attempt and stop:
        stop_launcher(draft, stop)
    elif draft.attempt:
        reconcile_running(draft)
    elif training.spec.suspend:
        suspend(draft)
    elif refusal:
        fail(draft, *refusal)
    elif first_match(draft, [deadline_exceeded]):
        seconds = training.spec.run_policy.active_deadline_seconds
        message = f"not finished within {seconds} s (runPolicy.activeDeadlineSeconds); the checkpoint is kept"
        fail(draft, Reason.DEADLINE_EXCEEDED, message)
    elif training.invalid:
        keep_pods(draft)
    else:
        reconcile_startup(draft)
    return draft.plan()
