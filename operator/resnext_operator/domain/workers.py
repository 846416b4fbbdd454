"""Which worker pods are live, which match the spec, and which nodes new workers should avoid."""

from collections import Counter

from resnext_operator.domain.attempt_cause import AttemptCause
from resnext_operator.domain.attempt_outcome import NODE_FAULT_CAUSES, REPLACE_POD_CAUSES
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ObservedWorker


def live_workers(draft: Draft) -> dict[int, ObservedWorker]:
    """The newest pod of each worker that is neither finished nor being deleted, by index."""
    return {each.index: each for each in draft.state.workers if not each.terminated}


def up_to_date_workers(draft: Draft) -> list[ObservedWorker | None]:
    """The live and up-to-date pod of each worker, by index; None without one."""
    replaced = workers_to_replace(draft)
    fitting = {
        index: pod
        for index, pod in live_workers(draft).items()
        if is_current(draft, pod) and mounts_current_secret(draft, pod) and pod.name not in replaced
    }
    return [fitting.get(index) for index in range(draft.replicas)]


def ready_workers(draft: Draft) -> int:
    """Number of ready workers, including those with outdated settings."""
    return sum(1 for index, pod in live_workers(draft).items() if pod.ready and index < draft.replicas)


def is_current(draft: Draft, pod: ObservedWorker) -> bool:
    """Whether the pod was created from the settings in the spec; true if those of the pod are unknown."""
    return pod.revision in ("", draft.revision) or bool(draft.training.invalid)


def mounts_current_secret(draft: Draft, pod: ObservedWorker) -> bool:
    """Whether the pod mounts the existing Secret; true if either is unknown."""
    return not pod.keys or draft.state.keys in (None, pod.keys)


def workers_to_replace(draft: Draft) -> set[str]:
    """Names of the pods that caused the end of an attempt, if the cause or a node to avoid requires new pods."""
    avoided = nodes_to_avoid(draft)
    return {
        each.pod for each in draft.attempts if each.pod and (each.cause in REPLACE_POD_CAUSES or each.node in avoided)
    }


def nodes_to_avoid(draft: Draft) -> list[str]:
    """Nodes with too many failures for new workers (runPolicy.avoidNodesAfter)."""
    limit = draft.training.spec.run_policy.avoid_nodes_after
    faults: Counter[str] = Counter()
    for each in draft.attempts:
        if each.cause in NODE_FAULT_CAUSES and each.node:
            # One failure of a GPU is sufficient.
            faults[each.node] += limit if each.cause == AttemptCause.GPU_UNAVAILABLE else 1
    return sorted(node for node, count in faults.items() if limit and count >= limit)
