"""The observed state of the children of a training, and rejections of the API server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from resnext_trainer.contract import Progress, TerminationReport


@dataclass(frozen=True, kw_only=True)
class ObservedPod:
    """Observed state of a pod: the fields that decisions depend on."""

    name: str
    uid: str
    phase: str
    deleting: bool = False
    disrupted: bool = False
    """Whether the pod was evicted or preempted, or its node was lost."""
    unreachable: bool = False
    """The node of the pod does not respond: the pod stays in Terminating until the node recovers or is deleted."""
    waiting_reason: str = ""
    """Why the pod does not start: the message of the scheduler or the kubelet."""
    unschedulable: bool = False
    scheduled: datetime | None = None
    exit_code: int | None = None
    node: str = ""

    @property
    def finished(self) -> bool:
        return self.phase in ("Failed", "Succeeded")


@dataclass(frozen=True, kw_only=True)
class ObservedWorker(ObservedPod):
    """Observed state of a worker pod."""

    index: int
    generation: int
    ready: bool = False
    address: str = ""
    unschedulable_since: datetime | None = None
    termination_message: str = ""
    """Termination message of its container."""
    ended_by: str = ""
    """Reason for the termination, such as StartError or OOMKilled."""
    out_of_memory: bool = False
    created: datetime | None = None
    gated: bool = False
    """Whether the pod has the operator's scheduling gate, which stays until all pods of the training are admitted."""
    revision: str = ""
    """Hash of the settings that the pod was created from; empty if unknown."""
    keys: str = ""
    """UID of the Secret that the pod mounts; empty if unknown."""

    @property
    def terminated(self) -> bool:
        return self.deleting or self.finished


@dataclass(frozen=True, kw_only=True)
class ObservedLauncher(ObservedPod):
    """Observed state of a launcher pod."""

    attempt: int
    report: TerminationReport | None = None
    ended: datetime | None = None
    workers: int | None = None
    """Number of workers of its attempt."""
    deleted: bool = False
    """No longer in the cluster; the other fields are its last observed state."""


@dataclass(frozen=True)
class ClusterState:
    """Observed state of the children of one training."""

    workers: tuple[ObservedWorker, ...] = ()
    launchers: tuple[ObservedLauncher, ...] = ()
    present: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Children other than pods, and claims that the spec names, with the hash of the desired manifest, if known."""
    access_modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Access modes of these claims."""
    foreign_claims: frozenset[str] = frozenset()
    """The claims that the operator did not create for this training."""
    progress: Progress | None = None
    """Latest progress report of worker 0."""
    last_steps: Mapping[int, int | None] = field(default_factory=dict)
    """Last step of each rank, polled while no steps are completed; None for a rank that did not respond."""
    keys: str | None = None
    """UID of the Secret with the SSH keys; None if it was not read."""
    quota: bool | None = None
    """Whether the namespace has a ResourceQuota; None until a dry run has admitted the pods."""
    launcher_admitted: bool = False
    """Whether a dry run has admitted the launcher after all workers were created."""


@dataclass(frozen=True)
class Rejection:
    """Object that the API server rejected, and the cause."""

    kind: str
    name: str
    role: str
    """Role of the pod; empty for other objects."""
    code: int
    message: str
