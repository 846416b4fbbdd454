"""The result of one decision: objects to create, update and delete, status and events."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from resnext_operator.api.objects.pod import Pod
from resnext_operator.api.objects.shared import SharedObject
from resnext_operator.api.status import Status


@dataclass(frozen=True)
class ObjectRef:
    """Reference to an object by name and UID."""

    kind: str
    name: str
    uid: str
    grace_seconds: int | None = None
    """Grace period for the deletion; None means that of the pod."""


@dataclass(frozen=True)
class Event:
    """Kubernetes event to record."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """Changes to make for one training."""

    create: tuple[Pod | SharedObject, ...] = ()
    update: tuple[SharedObject, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    ungate: tuple[ObjectRef, ...] = ()
    """Workers whose scheduling gate is removed."""
    status: Status = field(default_factory=Status)
    """The complete new status."""
    events: tuple[Event, ...] = ()
    needs_ssh_secret: bool = False
    """The plan is incomplete: ensure that the Secret exists, and decide again with its UID."""
    needs_admission: bool = False
    """The plan is incomplete: dry-run the creation of the pods, and decide again."""
    needs_launcher_admission: bool = False
    """The plan is incomplete: dry-run the creation of the launcher after that of all workers, and decide again."""
    requeue_after: timedelta | None = None

    @property
    def changes_children(self) -> bool:
        """Whether objects are created, updated or deleted."""
        return bool(self.create or self.update or self.delete or self.ungate)
