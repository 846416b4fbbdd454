"""The observed state of a training's children, and what the API server rejected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from resnext_trainer.contract import Progress, TerminationReport


@dataclass(frozen=True, kw_only=True)
class ObservedPod:
    """What decisions need of a pod, as the cluster shows it."""

    name: str
    uid: str
    phase: str
    deleting: bool = False
    disrupted: bool = False
    """Evicted, preempted or on a lost node."""
    unreachable: bool = False
    """Its node does not answer: it stays in Terminating until that node is back or removed."""
    waiting_reason: str = ""
    """Why it does not start, in the scheduler's or the kubelet's words."""
    unschedulable: bool = False
    scheduled: datetime | None = None
    exit_code: int | None = None
    node: str = ""

    @property
    def finished(self) -> bool:
        return self.phase in ("Failed", "Succeeded")


@dataclass(frozen=True, kw_only=True)
class ObservedWorker(ObservedPod):
    """A worker pod as the cluster shows it."""

    index: int
    generation: int
    ready: bool = False
    address: str = ""
    unschedulable_since: datetime | None = None
    termination_message: str = ""
    """Why its container ended."""
    ended_by: str = ""
    """The same in one word, such as StartError or OOMKilled."""
    out_of_memory: bool = False
    created: datetime | None = None
    gated: bool = False
    """Not given to the scheduler yet, until all pods of the training are admitted."""
    revision: str = ""
    """Which settings it was made from; empty if that is not known."""
    keys: str = ""
    """Which Secret it mounts; empty if that is not known."""

    @property
    def terminated(self) -> bool:
        return self.deleting or self.finished


@dataclass(frozen=True, kw_only=True)
class ObservedLauncher(ObservedPod):
    """A launcher pod as the cluster shows it."""

    attempt: int
    report: TerminationReport | None = None
    ended: datetime | None = None
    workers: int | None = None
    """How many workers it was started on."""
    deleted: bool = False
    """No longer in the cluster; this is how it was last seen."""


@dataclass(frozen=True)
class ClusterState:
    """What the cluster shows of one training's children."""

    workers: tuple[ObservedWorker, ...] = ()
    launchers: tuple[ObservedLauncher, ...] = ()
    present: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The children that are no pods, and the claims that the training names: the hash of what was desired, if known."""
    access_modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """How each of these claims can be mounted."""
    foreign_claims: frozenset[str] = frozenset()
    """Which of these claims the operator did not create for this training."""
    progress: Progress | None = None
    """What worker 0 said last."""
    last_steps: Mapping[int, int | None] = field(default_factory=dict)
    """The last step of each rank, asked for when no step was made for a while; None for a rank that did not answer."""
    keys: str | None = None
    """The uid of the Secret with the keys; None when nobody has looked."""
    quota: bool | None = None
    """Whether the namespace has a ResourceQuota; known only once the API server would admit the pods: before, None."""
    launcher_admitted: bool = False
    """Whether the API server would admit the launcher now that all workers exist."""


@dataclass(frozen=True)
class Rejection:
    """An object that the API server did not create, and why."""

    kind: str
    name: str
    role: str
    """The pod's role; empty for what is no pod."""
    code: int
    message: str
