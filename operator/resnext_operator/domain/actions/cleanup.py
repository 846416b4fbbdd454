"""Cleanup of a finished training."""

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.status import ConditionType, Phase
from resnext_operator.domain.actions.finish import count_remaining_workers
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ObservedPod
from resnext_operator.domain.plan import ObjectRef
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import first_match
from resnext_operator.domain.rules.ttl_expired import ttl_expired


def clean_up(draft: Draft) -> None:
    """Delete pods according to runPolicy.cleanPodPolicy, and the training after its TTL. Nothing is created."""
    training, policy = draft.training, draft.training.spec.run_policy.clean_pod_policy
    ended = ConditionType.SUCCEEDED if draft.phase is Phase.SUCCEEDED else ConditionType.FAILED
    reason = draft.conditions.reason(ended)
    count_remaining_workers(draft, Reason(reason) if reason in set(Reason) else Reason.WORKERS_NOT_READY)
    if first_match(draft, [ttl_expired]):
        draft.delete[training.uid] = ObjectRef(KIND, training.name, training.uid)
        return
    pods: list[ObservedPod] = [*draft.state.workers, *draft.state.launchers] if policy != "None" else []
    draft.delete_pods(pod for pod in pods if policy == "All" or not pod.finished)
