"""Types of the cached objects: the fields that the operator reads. Outside of metadata their types are unchecked."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypeAlias, TypedDict

from resnext_operator.api.objects import Manifest

JSON: TypeAlias = bool | int | float | str | list[Any] | Mapping[str, Any] | None
"""Any JSON value. Narrower than `object`, so that mypy reports misspelled fields in `get`."""


class CachedOwnerReference(TypedDict, total=False):
    apiVersion: JSON
    kind: JSON
    name: JSON
    uid: JSON


class CachedMetadata(TypedDict):
    """Object metadata. The API server validates it for every kind; `prune` checks name and namespace again."""

    name: str
    namespace: str
    uid: NotRequired[str]
    resourceVersion: NotRequired[str]
    generation: NotRequired[int]
    creationTimestamp: NotRequired[str]
    deletionTimestamp: NotRequired[str]
    labels: NotRequired[dict[str, JSON]]
    ownerReferences: NotRequired[list[CachedOwnerReference]]
    annotations: NotRequired[dict[str, JSON]]


class CachedObject(TypedDict):
    """A training, one of its children or a claim, pruned. The types below have the fields of spec and status."""

    apiVersion: JSON
    kind: str
    metadata: CachedMetadata
    spec: NotRequired[Mapping[str, Any]]
    status: NotRequired[Mapping[str, Any]]


AnyObject: TypeAlias = Manifest | CachedObject
"""An object as the API server sent it, or as the cache keeps it."""


# -- fields of trainings -----------------------------------------------------------------------------------------------


class ClaimReference(TypedDict, total=False):
    claimName: JSON


class WorkerVolume(TypedDict, total=False):
    persistentVolumeClaim: JSON


class WorkerResources(TypedDict, total=False):
    limits: JSON


class TrainingWorkers(TypedDict, total=False):
    # Any instead of JSON, because it is passed to int(), which raises on other types.
    slots: Any
    resources: JSON
    volumes: JSON


class TrainingSpec(TypedDict, total=False):
    managedBy: JSON
    checkpoints: JSON
    dataset: JSON
    workers: JSON


# -- fields of claims --------------------------------------------------------------------------------------------------


class ClaimSpec(TypedDict, total=False):
    accessModes: JSON


# -- fields of pods ----------------------------------------------------------------------------------------------------


class SchedulingGate(TypedDict, total=False):
    name: JSON


class PodSpec(TypedDict, total=False):
    nodeName: JSON
    schedulingGates: JSON


class PodCondition(TypedDict, total=False):
    type: JSON
    status: JSON
    reason: JSON
    message: JSON
    lastTransitionTime: JSON


class WaitingState(TypedDict, total=False):
    reason: JSON
    message: JSON


class TerminatedState(TypedDict, total=False):
    exitCode: JSON
    reason: JSON
    message: JSON
    finishedAt: JSON


class ContainerState(TypedDict, total=False):
    waiting: JSON
    terminated: JSON


class ContainerStatus(TypedDict, total=False):
    state: JSON


class PodStatus(TypedDict, total=False):
    phase: JSON
    reason: JSON
    message: JSON
    podIP: JSON
    conditions: JSON
    containerStatuses: JSON
