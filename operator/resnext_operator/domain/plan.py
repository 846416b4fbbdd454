"""What one reconciliation does: objects to create, update and delete, status and events."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from resnext_operator.api.objects.pod import Pod
from resnext_operator.api.objects.shared import SharedObject
from resnext_operator.api.status import Status


@dataclass(frozen=True)
class ObjectRef:
    """An object to delete: this one, and not another of the same name."""

    kind: str
    name: str
    uid: str
    grace_seconds: int | None = None
    """Time that it has to end; None is what its pod asks for."""


@dataclass(frozen=True)
class Event:
    """A transition that is recorded as a Kubernetes event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What is to be done about one training."""

    create: tuple[Pod | SharedObject, ...] = ()
    update: tuple[SharedObject, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    ungate: tuple[ObjectRef, ...] = ()
    """Workers to give to the scheduler."""
    status: Status = field(default_factory=Status)
    """The whole new status."""
    events: tuple[Event, ...] = ()
    needs_ssh_secret: bool = False
    """This plan is none yet: look for the Secret, make it if it is not there, and decide again knowing its uid."""
    needs_admission: bool = False
    """This plan is none yet: ask the API server whether it would admit the pods, and decide again."""
    needs_launcher_admission: bool = False
    """This plan is none yet: ask the API server again about the launcher, now that all workers exist."""
    requeue_after: timedelta | None = None
