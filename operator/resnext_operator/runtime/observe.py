"""Converts cached objects into the typed state that `domain` decides on.

A pod's role and number come from its name and its training from its owner reference, because labels are mutable. A
field of an unexpected type counts as unset.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from resnext_operator.domain.observed import ClusterState, ObservedLauncher, ObservedPod, ObservedWorker
from resnext_operator.rendering import names
from resnext_operator.runtime.cached_objects import (
    JSON,
    CachedObject,
    ClaimSpec,
    ContainerState,
    ContainerStatus,
    PodCondition,
    PodSpec,
    PodStatus,
    SchedulingGate,
    TerminatedState,
    WaitingState,
)
from resnext_operator.runtime.unstructured import dictionary, fields, items, training_of, word
from resnext_trainer.contract import Progress, TerminationReport

_MAX_WORKERS = 4096

# The kubelet truncates termination messages to 4 kB.
_MAX_REPORT_LENGTH = 65_536

# Reasons of a waiting container that is not expected to start soon.
_STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


def observe(
    children: Iterable[CachedObject],
    deleted_launchers: Iterable[CachedObject] = (),
    progress: Progress | None = None,
    last_steps: Mapping[int, int | None] | None = None,
    skipped: Callable[[CachedObject, Exception], None] = lambda _, __: None,
    foreign_claims: frozenset[str] = frozenset(),
) -> ClusterState:
    """The observed state of a training.

    children: the objects of the training, and the claims that its spec names.
    deleted_launchers: deleted launcher pods in their last state.
    skipped: called with each object that cannot be parsed; it counts as missing.
    """
    workers, launchers = [], []
    present: dict[tuple[str, str], str] = {}
    access_modes: dict[str, tuple[str, ...]] = {}
    for child, deleted in [*((each, False) for each in children), *((each, True) for each in deleted_launchers)]:
        try:
            metadata = child["metadata"]
            if child["kind"] == "Pod":
                match _name(child):
                    case names.PodName("worker"):
                        workers.append(worker(child))
                    case names.PodName("launcher"):
                        launchers.append(launcher(child, deleted))
            else:
                annotations = dictionary(metadata.get("annotations"))
                present[child["kind"], metadata["name"]] = word(annotations.get(names.SPEC_HASH))
                modes: JSON = fields(ClaimSpec, child.get("spec")).get("accessModes")
                if isinstance(modes, list) and modes:
                    access_modes[metadata["name"]] = tuple(map(str, modes))
        except Exception as error:
            skipped(child, error)
    return ClusterState(
        workers=tuple(sorted(workers, key=lambda each: (each.index, each.generation))),
        launchers=tuple(sorted(launchers, key=lambda each: each.attempt)),
        present=present,
        access_modes=access_modes,
        foreign_claims=foreign_claims,
        progress=progress,
        last_steps=last_steps or {},
    )


def _name(pod: CachedObject) -> names.PodName | None:
    """The parts of a pod's name, if the operator gives such names to pods of the training that owns it."""
    training = training_of(pod)
    return names.pod(training[1], pod["metadata"]["name"]) if training else None


def worker(pod: CachedObject) -> ObservedWorker:
    """A worker pod."""
    metadata, status, name = pod["metadata"], fields(PodStatus, pod.get("status")), _name(pod)
    if name is None:
        raise ValueError(f"{metadata['name']} is not the name of a worker pod")
    labels, ended = dictionary(metadata.get("labels")), _terminated(status)
    common = _pod(pod, status, ended)
    since = _time(_condition(status, "PodScheduled").get("lastTransitionTime")) if common.unschedulable else None
    return ObservedWorker(
        **vars(common),
        index=name.number,
        generation=name.generation,
        ready=word(_condition(status, "Ready").get("status")) == "True",
        address=word(status.get("podIP")),
        unschedulable_since=since,
        termination_message=_termination_message(status),
        ended_by=word(ended.get("reason")) or word(status.get("reason")),
        out_of_memory=_out_of_memory(ended),
        created=_time(metadata.get("creationTimestamp")),
        gated=_gated(pod),
        revision=word(labels.get(names.REVISION)),
        keys=word(labels.get(names.SSH_SECRET_UID)),
    )


def launcher(pod: CachedObject, deleted: bool = False) -> ObservedLauncher:
    """A launcher pod."""
    metadata, status, name = pod["metadata"], fields(PodStatus, pod.get("status")), _name(pod)
    if name is None:
        raise ValueError(f"{metadata['name']} is not the name of a launcher pod")
    ended = _terminated(status)
    count = word(dictionary(metadata.get("labels")).get(names.WORKERS))
    return ObservedLauncher(
        **vars(_pod(pod, status, ended)),
        attempt=name.number,
        report=_report(ended.get("message")),
        ended=_time(ended.get("finishedAt")),
        workers=int(count) if count.isascii() and count.isdigit() and 0 < int(count[:5]) <= _MAX_WORKERS else None,
        deleted=deleted,
    )


def _pod(pod: CachedObject, status: PodStatus, ended: TerminatedState) -> ObservedPod:
    """What workers and launchers have in common."""
    metadata = pod["metadata"]
    waiting_reason, unschedulable = _waiting_reason(status)
    return ObservedPod(
        name=metadata["name"],
        uid=metadata["uid"],
        phase=word(status.get("phase")) or "Pending",
        deleting="deletionTimestamp" in metadata,
        disrupted=_disrupted(status),
        unreachable="deletionTimestamp" in metadata and _unreachable(status),
        waiting_reason=waiting_reason,
        unschedulable=unschedulable,
        scheduled=_scheduled(status),
        exit_code=_exit_code(ended),
        node=_node(pod),
    )


def _exit_code(ended: TerminatedState) -> int | None:
    code: JSON = ended.get("exitCode")
    return code if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 2**31 else None


def _condition(status: PodStatus, kind: str) -> PodCondition:
    for condition in items(PodCondition, status.get("conditions")):
        if word(condition.get("type")) == kind:
            return condition
    return {}


def _disrupted(status: PodStatus) -> bool:
    return word(_condition(status, "DisruptionTarget").get("status")) == "True" or word(status.get("reason")) in (
        "Evicted",
        "NodeLost",
        "Preempting",
        "Shutdown",
    )


def _unreachable(status: PodStatus) -> bool:
    """Whether the taint manager evicts the pod and it is not ready; a pod that saves on a live node stays ready."""
    taken = word(_condition(status, "DisruptionTarget").get("reason")) == "DeletionByTaintManager"
    return taken and word(_condition(status, "Ready").get("status")) != "True"


def _waiting_reason(status: PodStatus) -> tuple[str, bool]:
    """Why a pod does not start, and whether the scheduler reported it."""
    scheduled = _condition(status, "PodScheduled")
    # A scheduling gate is not a problem: the operator, or the queue that added it, removes it.
    if word(scheduled.get("status")) == "False" and word(scheduled.get("reason")) != "SchedulingGated":
        return word(scheduled.get("message")) or word(scheduled.get("reason")) or "not scheduled yet", True
    for container in items(ContainerStatus, status.get("containerStatuses")):
        waiting = fields(WaitingState, fields(ContainerState, container.get("state")).get("waiting"))
        if (reason := word(waiting.get("reason"))) in _STUCK:
            return f"{reason}: {word(waiting.get('message'))}".rstrip(": "), False
    return "", False


def _terminated(status: PodStatus) -> TerminatedState:
    for container in items(ContainerStatus, status.get("containerStatuses")):
        if ended := fields(TerminatedState, fields(ContainerState, container.get("state")).get("terminated")):
            return ended
    return {}


def _node(pod: CachedObject) -> str:
    return word(fields(PodSpec, pod.get("spec")).get("nodeName"))


def _gated(pod: CachedObject) -> bool:
    gates = items(SchedulingGate, fields(PodSpec, pod.get("spec")).get("schedulingGates"))
    return any(word(gate.get("name")) == names.GATE for gate in gates)


def _scheduled(status: PodStatus) -> datetime | None:
    condition = _condition(status, "PodScheduled")
    return _time(condition.get("lastTransitionTime")) if word(condition.get("status")) == "True" else None


def _out_of_memory(ended: TerminatedState) -> bool:
    """Whether the container ran out of memory. On cgroup v1, where only a rank is killed, the worker reports it."""
    message = word(ended.get("message"))
    # Trainers of version 0.1 report "killed for memory".
    reported = _exit_code(ended) == 137 and ("OOM-killed" in message or "killed for memory" in message)
    return word(ended.get("reason")) == "OOMKilled" or reported


def _termination_message(status: PodStatus) -> str:
    """Why a container terminated, in one sentence; empty while it runs."""
    ended = _terminated(status)
    if not ended:
        return word(status.get("message")) if word(status.get("phase")) == "Failed" else ""
    return word(ended.get("message")).strip() or f"ended with exit code {_exit_code(ended)}"


def _report(message: JSON) -> TerminationReport | None:
    text = word(message)
    try:
        return TerminationReport.model_validate(json.loads(text)) if len(text) <= _MAX_REPORT_LENGTH else None
    except (TypeError, ValueError, RecursionError):
        return None


def _time(value: JSON) -> datetime | None:
    """A timestamp of the API server; None for other text, and for years in which date arithmetic may overflow."""
    try:
        found = datetime.fromisoformat(word(value))
    except ValueError:
        return None
    return found if found.tzinfo and 2000 <= found.year < 2200 else None
