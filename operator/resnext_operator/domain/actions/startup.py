"""The start of an attempt: shared objects, then workers, then, when all workers are ready, a launcher."""

from collections.abc import Collection

from resnext_operator.api.status import Phase
from resnext_operator.domain import startup
from resnext_operator.domain.actions.attempt_start import record_attempt_start
from resnext_operator.domain.actions.finish import count_failure, fail_if_pending_too_long
from resnext_operator.domain.actions.rejected_pods import (
    admit_complete_set,
    release_incomplete_set,
    waits_for_another_spec,
)
from resnext_operator.domain.actions.scheduling import missing_claims, set_scheduled_condition, set_scheduled_false
from resnext_operator.domain.actions.shared_objects import check_secret, ensure_shared_objects
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ObservedWorker
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.domain.rules.attempt_backoff import attempt_backoff
from resnext_operator.domain.rules.rejection_backoff import rejection_backoff
from resnext_operator.domain.rules.rule import waits_for
from resnext_operator.domain.rules.start_backoff import start_backoff
from resnext_operator.domain.workers import is_current, nodes_to_avoid, up_to_date_workers
from resnext_operator.rendering.pods import launcher_pod, worker_pod

# After the loss of a rank the other ranks cannot save a checkpoint, so a short grace period is sufficient.
STALE_LAUNCHER_GRACE_SECONDS = 5


def reconcile_startup(draft: Draft) -> None:
    """Take the next step toward an attempt."""
    if draft.phase not in (Phase.STARTING, Phase.RESTARTING, Phase.PENDING):
        draft.transition_to(Phase.PENDING, Reason.RESUMED, "recreating pods")
    if waits_for_another_spec(draft):
        return
    ensure_shared_objects(draft)
    _count_failed_start(draft)
    if draft.phase.ended:
        return
    current = up_to_date_workers(draft)
    pods = [pod for pod in current if pod]
    ready = sum(1 for pod in pods if pod.ready)
    set_workers_ready(draft, ready)
    admit_complete_set(draft, current)
    if (ready < len(current) or draft.rejection) and fail_if_pending_too_long(draft):
        return
    if draft.rejection:
        if release_incomplete_set(draft, current):
            return
        set_scheduled_false(draft, Reason.POD_CREATION_REJECTED, draft.rejection.message)
    else:
        set_scheduled_condition(draft, current)
    # A missing worker may be the only sign that an attempt ended, until the end is recorded.
    if draft.evidence_is_recorded:
        _delete_stale_pods(draft, pods)
        if not (missing_claims(draft) or waits_for(draft, start_backoff) or waits_for(draft, rejection_backoff)):
            _create_missing_workers(draft, [index for index, pod in enumerate(current) if pod is None])
    if ready == len(current) and _may_launch(draft):
        _create_launcher(draft, pods)
    # If the launcher has been created in this reconciliation, its event is sufficient.
    if draft.phase is Phase.PENDING and all(pod and pod.phase == "Running" for pod in current):
        draft.transition_to(Phase.STARTING, Reason.WORKERS_RUNNING, "all workers are running")
    check_secret(draft, pods)


def _count_failed_start(draft: Draft) -> None:
    """Count a failure if workers exited before an attempt started: one for all workers of a start."""
    current = [pod for pod in draft.state.workers if pod.index < draft.replicas and is_current(draft, pod)]
    failed = startup.failed_workers(current, draft.status.operator_state.pods_accounted_until)
    if not failed:
        return
    startup.account(draft.status, draft.state.workers)
    message = startup.record(draft.status, failed[0], draft.now)
    draft.evidence_is_recorded = False
    if not count_failure(draft, message):
        draft.status.phase, draft.status.reason = Phase.RESTARTING, Reason.WORKER_START_FAILED.value
        text = f"failure {draft.status.failures}: {message}"
        draft.events.append(warning(Reason.WORKER_START_FAILED, text))


def _delete_stale_pods(draft: Draft, current: Collection[ObservedWorker]) -> None:
    """Delete all pods except the current workers; failed pods are kept for their logs until an attempt starts."""
    launchers = (each for each in draft.state.launchers if not each.deleted and not each.finished)
    draft.delete_pods(launchers, grace=STALE_LAUNCHER_GRACE_SECONDS)
    keep = draft.training.spec.run_policy.clean_pod_policy != "All"
    _delete_other_workers(draft, current, {each.pod for each in draft.status.failed_starts} if keep else ())


def _delete_other_workers(draft: Draft, kept: Collection[ObservedWorker], named: Collection[str] = ()) -> None:
    uids = {pod.uid for pod in kept}
    draft.delete_pods(pod for pod in draft.state.workers if pod.uid not in uids and pod.name not in named)


def _create_missing_workers(draft: Draft, indexes: list[int]) -> None:
    if not indexes:
        return
    state = draft.state
    draft.needs_admission, draft.needs_ssh_secret = state.quota is None, state.keys is None
    if state.quota is None or state.keys is None:
        return
    # Pods with a scheduling gate count toward a quota, but occupy no GPU while other pods of the set are rejected.
    gated = state.quota or draft.rejection is not None
    avoided = nodes_to_avoid(draft)
    for index in indexes:
        number = max((each.generation for each in state.workers if each.index == index), default=-1) + 1
        draft.create.append(worker_pod(draft.training, index, number, state.keys, avoided, gated))


def _may_launch(draft: Draft) -> bool:
    # A launcher on a lost node may still run, but its ranks cannot write checkpoints of the new attempt.
    running = any(not (each.deleted or each.finished or each.unreachable) for each in draft.state.launchers)
    if running or not draft.evidence_is_recorded:
        return False
    return not (waits_for(draft, attempt_backoff) or waits_for(draft, rejection_backoff))


def _create_launcher(draft: Draft, workers: list[ObservedWorker]) -> None:
    # The first launcher is created right after its workers; before a later one the Secret may have been deleted.
    if draft.state.keys is None and (draft.attempts or len({pod.keys for pod in workers if pod.keys}) > 1):
        draft.needs_ssh_secret = True
        return
    known = [each.number for each in draft.attempts] + [each.attempt for each in draft.state.launchers]
    number = max(known, default=0) + 1
    record_attempt_start(draft, number, len(workers))
    draft.create.append(launcher_pod(draft.training, number, [(pod.name, pod.address) for pod in workers]))
    # Including pods of failed starts, which must not be mistaken for workers of the attempt.
    _delete_other_workers(draft, workers)
