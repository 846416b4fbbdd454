"""From the cluster's raw objects to what `policy` needs to know of them."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from resnext_operator import names
from resnext_operator.api import LauncherSeen, Manifest, Observed, WorkerSeen
from resnext_trainer.report import Progress, Report

# Reasons of a container that waits and will not start by itself soon.
_STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


def observe(
    children: Iterable[Manifest],
    gone: Iterable[Manifest] = (),
    progress: Progress | None = None,
    last_steps: Mapping[int, int | None] | None = None,
) -> Observed:
    """What the cluster shows.

    children: the training's objects, and the claims that it names.
    gone: launcher pods that are no longer there, as they were last seen.
    """
    workers, launchers = [], []
    present: dict[tuple[str, str], str] = {}
    access_modes: dict[str, tuple[str, ...]] = {}
    for child in children:
        metadata = child["metadata"]
        match child["kind"], (metadata.get("labels") or {}).get(names.ROLE):
            case "Pod", "worker":
                workers.append(worker(child))
            case "Pod", "launcher":
                launchers.append(launcher(child))
            case kind, _:
                present[kind, metadata["name"]] = (metadata.get("annotations") or {}).get(names.HASH, "")
                if modes := (child.get("spec") or {}).get("accessModes"):
                    access_modes[metadata["name"]] = tuple(modes)
    launchers += [launcher(pod, gone=True) for pod in gone]
    return Observed(
        workers=tuple(sorted(workers, key=lambda each: (each.index, each.incarnation))),
        launchers=tuple(sorted(launchers, key=lambda each: each.attempt)),
        present=present,
        access_modes=access_modes,
        progress=progress,
        last_steps=last_steps or {},
    )


def worker(pod: Manifest) -> WorkerSeen:
    """A worker pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels, ended = metadata["labels"], _terminated(status)
    trouble, unschedulable = _trouble(status)
    return WorkerSeen(
        index=int(labels[names.WORKER]),
        incarnation=int(labels[names.INCARNATION]),
        name=metadata["name"],
        uid=metadata["uid"],
        phase=status.get("phase", "Pending"),
        ready=_condition(status, "Ready").get("status") == "True",
        address=status.get("podIP", ""),
        deleting="deletionTimestamp" in metadata,
        disrupted=_disrupted(status),
        unreachable="deletionTimestamp" in metadata and _unreachable(status),
        trouble=trouble,
        unschedulable=unschedulable,
        unschedulable_since=_time(_condition(status, "PodScheduled").get("lastTransitionTime"))
        if unschedulable
        else None,
        scheduled=_scheduled(status),
        failure=_failure(status),
        exit_code=ended.get("exitCode"),
        out_of_memory=_out_of_memory(ended),
        node=_node(pod),
        revision=labels.get(names.REVISION, ""),
        keys=labels.get(names.KEYS, ""),
    )


def launcher(pod: Manifest, gone: bool = False) -> LauncherSeen:
    """A launcher pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    ended = _terminated(status)
    trouble, unschedulable = _trouble(status)
    return LauncherSeen(
        attempt=int(metadata["labels"][names.ATTEMPT]),
        name=metadata["name"],
        uid=metadata["uid"],
        phase=status.get("phase", "Pending"),
        deleting="deletionTimestamp" in metadata,
        disrupted=_disrupted(status),
        unreachable="deletionTimestamp" in metadata and _unreachable(status),
        trouble=trouble,
        unschedulable=unschedulable,
        scheduled=_scheduled(status),
        exit_code=ended.get("exitCode"),
        report=_report(ended.get("message", "")),
        ended=_time(ended.get("finishedAt")),
        node=_node(pod),
        workers=int(count) if (count := metadata["labels"].get(names.WORKERS)) else None,
        gone=gone,
    )


def _condition(status: Manifest, kind: str) -> Manifest:
    return next((each for each in status.get("conditions") or () if each["type"] == kind), {})


def _disrupted(status: Manifest) -> bool:
    return _condition(status, "DisruptionTarget").get("status") == "True" or status.get("reason") in (
        "Evicted",
        "NodeLost",
        "Preempting",
        "Shutdown",
    )


def _unreachable(status: Manifest) -> bool:
    """Taken from its node, and not ready: a kubelet that answers would keep it ready while it saves."""
    taken = _condition(status, "DisruptionTarget").get("reason") == "DeletionByTaintManager"
    return taken and _condition(status, "Ready").get("status") != "True"


def _trouble(status: Manifest) -> tuple[str, bool]:
    """Why a pod does not start, and whether that is the scheduler's word."""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "not scheduled yet"), True
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": "), False
    return "", False


def _terminated(status: Manifest) -> Manifest:
    for container in status.get("containerStatuses") or ():
        if ended := (container.get("state") or {}).get("terminated"):
            found: Manifest = ended
            return found
    return {}


def _node(pod: Manifest) -> str:
    return (pod.get("spec") or {}).get("nodeName") or ""


def _scheduled(status: Manifest) -> datetime | None:
    condition = _condition(status, "PodScheduled")
    return _time(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None


def _out_of_memory(ended: Manifest) -> bool:
    """Whether the kubelet says so, or on cgroup v1, where the pod outlives its rank, the worker's own first process."""
    told = ended.get("exitCode") == 137 and "killed for memory" in str(ended.get("message"))
    return ended.get("reason") == "OOMKilled" or told


def _failure(status: Manifest) -> str:
    """Why a container ended, in one sentence; empty while it runs."""
    ended = _terminated(status)
    if not ended:
        return str(status.get("message") or "") if status.get("phase") == "Failed" else ""
    return str(ended.get("message") or "").strip() or f"ended with exit code {ended.get('exitCode')}"


def _report(message: str) -> Report | None:
    try:
        return Report.model_validate(json.loads(message))
    except (ValueError, ValidationError):
        return None


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(re.sub("Z$", "+00:00", text)) if isinstance(text, str) else None
