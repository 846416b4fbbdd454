"""From the cluster's raw objects to what `domain` needs to know of them.

A pod's role and number come from its name, and its training from its owner: labels can be changed while it lives. A
field of another type than it should have counts as one that is not there.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from resnext_operator.api.objects import Manifest
from resnext_operator.domain.observed import ClusterState, ObservedLauncher, ObservedWorker
from resnext_operator.rendering import names
from resnext_operator.runtime.unstructured import dictionary, items, training_of, word
from resnext_trainer.contract import Progress, TerminationReport

_MOST_WORKERS = 4096

# The kubelet cuts termination messages at 4 kB.
_LONGEST_REPORT = 65_536

# Reasons of a container that waits and will not start by itself soon.
_STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


def observe(
    children: Iterable[Manifest],
    gone: Iterable[Manifest] = (),
    progress: Progress | None = None,
    last_steps: Mapping[int, int | None] | None = None,
    skipped: Callable[[Manifest, Exception], None] = lambda _, __: None,
    foreign_claims: frozenset[str] = frozenset(),
) -> ClusterState:
    """What the cluster shows.

    children: the training's objects, and the claims that it names.
    gone: launcher pods that are no longer there, as they were last seen.
    skipped: called with each object that cannot be parsed; it counts as not there.
    """
    workers, launchers = [], []
    present: dict[tuple[str, str], str] = {}
    access_modes: dict[str, tuple[str, ...]] = {}
    for child, is_gone in [*((each, False) for each in children), *((each, True) for each in gone)]:
        try:
            metadata = child["metadata"]
            if child["kind"] == "Pod":
                match _name(child):
                    case names.PodName("worker"):
                        workers.append(worker(child))
                    case names.PodName("launcher"):
                        launchers.append(launcher(child, is_gone))
            else:
                present[child["kind"], metadata["name"]] = word(
                    dictionary(metadata.get("annotations")), names.SPEC_HASH
                )
                if modes := dictionary(child.get("spec")).get("accessModes"):
                    access_modes[metadata["name"]] = tuple(map(str, modes))
        except Exception as error:
            skipped(child, error)
    return ClusterState(
        workers=tuple(sorted(workers, key=lambda each: (each.index, each.incarnation))),
        launchers=tuple(sorted(launchers, key=lambda each: each.attempt)),
        present=present,
        access_modes=access_modes,
        foreign_claims=foreign_claims,
        progress=progress,
        last_steps=last_steps or {},
    )


def _name(pod: Manifest) -> names.PodName | None:
    """What a pod's name says, if it is one that the operator gives to pods of the training that owns it."""
    training = training_of(pod)
    return names.pod(training[1], pod["metadata"]["name"]) if training else None


def worker(pod: Manifest) -> ObservedWorker:
    """A worker pod."""
    metadata, status, name = pod["metadata"], dictionary(pod.get("status")), _name(pod)
    if name is None:
        raise ValueError(f"{metadata['name']} is not the name of a worker pod")
    labels, ended = dictionary(metadata.get("labels")), _terminated(status)
    trouble, unschedulable = _waiting_reason(status)
    return ObservedWorker(
        index=name.number,
        incarnation=name.incarnation,
        name=metadata["name"],
        uid=metadata["uid"],
        phase=word(status, "phase") or "Pending",
        ready=_condition(status, "Ready").get("status") == "True",
        address=word(status, "podIP"),
        deleting="deletionTimestamp" in metadata,
        disrupted=_disrupted(status),
        unreachable="deletionTimestamp" in metadata and _unreachable(status),
        waiting_reason=trouble,
        unschedulable=unschedulable,
        unschedulable_since=_time(_condition(status, "PodScheduled").get("lastTransitionTime"))
        if unschedulable
        else None,
        scheduled=_scheduled(status),
        termination_message=_termination_message(status),
        ended_by=word(ended, "reason") or word(status, "reason"),
        exit_code=_exit_code(ended),
        out_of_memory=_out_of_memory(ended),
        created=_time(metadata.get("creationTimestamp")),
        gated=_gated(pod),
        node=_node(pod),
        revision=word(labels, names.REVISION),
        keys=word(labels, names.SSH_SECRET_UID),
    )


def launcher(pod: Manifest, gone: bool = False) -> ObservedLauncher:
    """A launcher pod."""
    metadata, status, name = pod["metadata"], dictionary(pod.get("status")), _name(pod)
    if name is None:
        raise ValueError(f"{metadata['name']} is not the name of a launcher pod")
    ended = _terminated(status)
    trouble, unschedulable = _waiting_reason(status)
    count = word(dictionary(metadata.get("labels")), names.WORKERS)
    return ObservedLauncher(
        attempt=name.number,
        name=metadata["name"],
        uid=metadata["uid"],
        phase=word(status, "phase") or "Pending",
        deleting="deletionTimestamp" in metadata,
        disrupted=_disrupted(status),
        unreachable="deletionTimestamp" in metadata and _unreachable(status),
        waiting_reason=trouble,
        unschedulable=unschedulable,
        scheduled=_scheduled(status),
        exit_code=_exit_code(ended),
        report=_report(ended.get("message")),
        ended=_time(ended.get("finishedAt")),
        node=_node(pod),
        workers=int(count) if count.isascii() and count.isdigit() and 0 < int(count[:5]) <= _MOST_WORKERS else None,
        gone=gone,
    )


def _exit_code(ended: Manifest) -> int | None:
    code = ended.get("exitCode")
    return code if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 2**31 else None


def _condition(status: Manifest, kind: str) -> Manifest:
    return next((each for each in items(status.get("conditions")) if each.get("type") == kind), {})


def _disrupted(status: Manifest) -> bool:
    return _condition(status, "DisruptionTarget").get("status") == "True" or word(status, "reason") in (
        "Evicted",
        "NodeLost",
        "Preempting",
        "Shutdown",
    )


def _unreachable(status: Manifest) -> bool:
    """Taken from its node, and not ready: a kubelet that answers would keep it ready while it saves."""
    taken = _condition(status, "DisruptionTarget").get("reason") == "DeletionByTaintManager"
    return taken and _condition(status, "Ready").get("status") != "True"


def _waiting_reason(status: Manifest) -> tuple[str, bool]:
    """Why a pod does not start, and whether that is the scheduler's word."""
    scheduled = _condition(status, "PodScheduled")
    # A gate is no trouble: the operator, or a queue that has put its own there, removes it.
    if scheduled.get("status") == "False" and scheduled.get("reason") != "SchedulingGated":
        return str(scheduled.get("message") or scheduled.get("reason") or "not scheduled yet"), True
    for container in items(status.get("containerStatuses")):
        waiting = dictionary(dictionary(container.get("state")).get("waiting"))
        if (reason := word(waiting, "reason")) in _STUCK:
            return f"{reason}: {waiting.get('message', '')}".rstrip(": "), False
    return "", False


def _terminated(status: Manifest) -> Manifest:
    for container in items(status.get("containerStatuses")):
        if ended := dictionary(dictionary(container.get("state")).get("terminated")):
            return ended
    return {}


def _node(pod: Manifest) -> str:
    return word(dictionary(pod.get("spec")), "nodeName")


def _gated(pod: Manifest) -> bool:
    return any(gate.get("name") == names.GATE for gate in items(dictionary(pod.get("spec")).get("schedulingGates")))


def _scheduled(status: Manifest) -> datetime | None:
    condition = _condition(status, "PodScheduled")
    return _time(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None


def _out_of_memory(ended: Manifest) -> bool:
    """Whether the kubelet says so, or on cgroup v1, where the pod outlives its rank, the worker's own first process."""
    told = ended.get("exitCode") == 137 and "killed for memory" in str(ended.get("message"))
    return ended.get("reason") == "OOMKilled" or told


def _termination_message(status: Manifest) -> str:
    """Why a container ended, in one sentence; empty while it runs."""
    ended = _terminated(status)
    if not ended:
        return str(status.get("message") or "") if status.get("phase") == "Failed" else ""
    return str(ended.get("message") or "").strip() or f"ended with exit code {ended.get('exitCode')}"


def _report(message: Any) -> TerminationReport | None:
    try:
        return TerminationReport.model_validate(json.loads(message)) if len(message) <= _LONGEST_REPORT else None
    except (TypeError, ValueError, RecursionError):
        return None


def _time(text: Any) -> datetime | None:
    """A time of the API server's; None for any other text, and for a time that sums with it would overflow."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo and 2000 <= found.year < 2200 else None
