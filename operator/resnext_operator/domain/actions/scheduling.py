"""The condition Scheduled, and why pods do not start."""

from datetime import timedelta

from resnext_operator.api.status import ConditionType
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ObservedPod, ObservedWorker
from resnext_operator.domain.reasons import ADVICE, Reason, warning
from resnext_operator.domain.rules.rule import due
from resnext_operator.domain.scheduling_advice import container_advice, scheduling_advice
from resnext_operator.rendering.claims import checkpoint_claim_name

# A claim that is created with the pods is bound within a second or two; until then the pods are unschedulable.
SCHEDULING_GRACE = timedelta(seconds=5)

NOT_STARTED_REASONS = (
    Reason.UNSCHEDULABLE,
    Reason.CONTAINER_NOT_STARTING,
    Reason.CLAIM_NOT_FOUND,
    Reason.POD_CREATION_REJECTED,
    Reason.VOLUME_STILL_ATTACHED,
    Reason.LAUNCHER_PENDING,
)
"""Reasons why pods do not start; they are replaced in the status when the pods have started."""


def set_scheduled_condition(draft: Draft, workers: list[ObservedWorker | None]) -> None:
    """Set the condition Scheduled: every worker is assigned to a node, or why one does not start."""
    pods = [pod for pod in workers if pod]
    waiting = next((pod for pod in pods if pod.waiting_reason and not _within_scheduling_grace(draft, pod)), None)
    if missing := missing_claims(draft):
        set_scheduled_false(draft, Reason.CLAIM_NOT_FOUND, missing)
    elif waiting:
        reason = Reason.UNSCHEDULABLE if waiting.unschedulable else Reason.CONTAINER_NOT_STARTING
        kind = "is unschedulable" if waiting.unschedulable else "is not starting"
        advice = waiting_advice(waiting, "worker")
        set_scheduled_false(draft, reason, f"pod {waiting.name} {kind}: {waiting.waiting_reason}", advice)
    elif len(pods) == len(workers) and all(pod.node for pod in pods):
        set_scheduled_true(draft)
        if detaching := _volume_detach_message(draft, pods[0]):
            draft.conditions.set(ConditionType.WORKERS_READY, False, Reason.VOLUME_STILL_ATTACHED, detaching)
            _enter_reason(draft, Reason.VOLUME_STILL_ATTACHED, detaching)
        else:
            leave_reason(draft, Reason.SCHEDULED)
    elif draft.conditions.reason(ConditionType.SCHEDULED) in NOT_STARTED_REASONS:
        with_node = sum(1 for pod in pods if pod.node)
        message = f"{with_node} of {len(workers)} workers are assigned to a node"
        draft.conditions.set(ConditionType.SCHEDULED, False, Reason.WORKERS_NOT_READY, message)
        leave_reason(draft, Reason.WORKERS_NOT_READY)


def set_scheduled_true(draft: Draft) -> None:
    draft.conditions.set(ConditionType.SCHEDULED, True, Reason.SCHEDULED, "every worker is assigned to a node")


def set_scheduled_false(draft: Draft, reason: Reason, message: str, advice: str = "") -> None:
    """advice: suggested action in the event, if the general one of the reason does not fit the cause."""
    draft.conditions.set(ConditionType.SCHEDULED, False, reason, message)
    _enter_reason(draft, reason, f"{message}{ADVICE}{advice}" if advice else message)


def waiting_advice(pod: ObservedPod, role: str) -> str:
    """Suggested action for a pod that does not start; empty if the general one of the reason fits."""
    if pod.unschedulable:
        return scheduling_advice(pod.waiting_reason, role)
    return container_advice(pod.waiting_reason)


def leave_reason(draft: Draft, reason: Reason) -> None:
    """Replace the reason in the status if it says why pods do not start."""
    if draft.status.reason in NOT_STARTED_REASONS:
        draft.status.reason = reason.value


def missing_claims(draft: Draft) -> str:
    """Message about the claims in the spec that do not exist; empty if all exist."""
    spec = draft.training.spec
    wanted = dict.fromkeys([*spec.shared_claims.values(), spec.checkpoints.claim_name])
    missing = [name for name in wanted if name and ("PersistentVolumeClaim", name) not in draft.state.present]
    if not missing:
        return ""
    pronoun = "it" if len(missing) == 1 else "them"
    names = " and ".join(missing)
    return f"PersistentVolumeClaim {names} not found in namespace {draft.training.namespace}: create {pronoun}"


def _enter_reason(draft: Draft, reason: Reason, message: str) -> None:
    if draft.status.reason != reason:
        draft.status.reason = reason.value
        draft.events.append(warning(reason, message))


def _within_scheduling_grace(draft: Draft, pod: ObservedWorker) -> bool:
    if pod.unschedulable_since is None:
        return False
    over = pod.unschedulable_since + SCHEDULING_GRACE
    if due(draft, over):
        return False
    draft.requeue_at(over)
    return True


def _volume_detach_message(draft: Draft, first: ObservedWorker) -> str:
    """Message that worker 0, on a different node than before, waits for the checkpoint volume; empty otherwise."""
    if first.phase != "Pending":
        return ""
    held = [pod for pod in draft.state.workers if pod.index == 0 and pod.unreachable and pod.node != first.node]
    modes = draft.state.access_modes.get(checkpoint_claim_name(draft.training), ())
    if not held or not all(mode.startswith("ReadWriteOnce") for mode in modes):
        return ""
    pod = held[-1]
    return (
        f"pod {first.name} waits for the checkpoint volume, which is still attached to node {pod.node} for pod "
        f"{pod.name}: the volume is detached when the node recovers or is deleted; if the node is permanently down, "
        "taint it with node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    )
