"""Applies a plan to the children of a training: creates, updates, ungates and deletes objects."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from resnext_operator.api.objects import Manifest
from resnext_operator.api.objects.meta import DeleteOptions
from resnext_operator.api.objects.shared import ManagedObject, Secret, SharedObject
from resnext_operator.api.training import Training
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.plan import ObjectRef, Plan
from resnext_operator.rendering import names
from resnext_operator.rendering.hashing import with_spec_hash
from resnext_operator.runtime.client import STRATEGIC_PATCH, ApiError, KubeClient, path_of
from resnext_operator.runtime.ownership import Owner, owner_of
from resnext_operator.runtime.unstructured import owned_by

_Answer = TypeVar("_Answer")


@dataclass
class Applied:
    """The API server's responses to the requests of a plan."""

    created: list[Manifest] = field(default_factory=list)
    changed: list[Manifest] = field(default_factory=list)
    """Updated or deleted objects, from the API server's responses."""
    rejections: list[Rejection] = field(default_factory=list)
    """Objects that the API server rejected; the rest of the plan was not applied."""


class NameStillHeld(Exception):
    """A child of an earlier training has the same name, and the garbage collector has not deleted it yet."""


class NameConflict(Exception):
    """A foreign object has the name of a child; the message names it."""


async def apply_plan(client: KubeClient, plan: Plan, training: Training) -> Applied:
    """Delete, update, ungate and create the objects of a plan."""
    applied = Applied()
    changed = await _gather(_delete(client, each, training.namespace) for each in plan.delete)
    changed += await _gather(_update(client, each, training) for each in plan.update)
    changed += await _gather(_ungate(client, each, training.namespace) for each in plan.ungate)
    applied.changed += [each for each in changed if each is not None]
    # Pods last: the scheduler and the kubelet report missing claims and ConfigMaps as errors.
    for pods in (False, True):
        wanted = [manifest for manifest in plan.create if (manifest["kind"] == "Pod") == pods]
        made = await _gather(_create_or_report(client, manifest, training) for manifest in wanted)
        applied.created += [each for each in made if not isinstance(each, Rejection)]
        applied.rejections += [each for each in made if isinstance(each, Rejection)]
        if applied.rejections:
            break
    return applied


async def ensure_ssh_secret(
    client: KubeClient, training: Training, new_secret: Callable[[], Secret], *, likely: bool
) -> str:
    """The UID of the Secret with SSH keys, which is created if it does not exist.

    likely: whether the Secret probably exists; it is then read first.
    """
    if likely:
        try:
            found = await client.request("GET", path_of("Secret", training.namespace, names.secret_name(training.name)))
        except ApiError as error:
            if error.code != 404:
                raise
        else:
            if owned_by(found, training.uid):
                return str(found["metadata"]["uid"])
    made = await create_child(client, new_secret(), training)
    return str(made["metadata"]["uid"])


async def _create_or_report(client: KubeClient, manifest: ManagedObject, training: Training) -> Manifest | Rejection:
    """Create a child, or return the API server's rejection."""
    try:
        return await create_child(client, manifest, training)
    except ApiError as error:
        if (rejection := error.rejection(manifest)) is None:
            raise
        return rejection


async def create_child(client: KubeClient, manifest: ManagedObject, training: Training) -> Manifest:
    """Create a child, or return the existing one; raises NameConflict if it is a foreign object."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    try:
        return await client.request("POST", path_of(kind, training.namespace), with_spec_hash(manifest))
    except ApiError as error:
        if error.code != 409:
            raise
    found = await client.request("GET", path_of(kind, training.namespace, name))
    match owner_of({**found, "kind": kind}, training.name, training.uid):
        case Owner.TRAINING:
            return found
        case Owner.EARLIER:
            raise NameStillHeld(f"{kind} {name} of an earlier training {training.name} is still being deleted")
        case Owner.ANOTHER if kind == "PersistentVolumeClaim":
            raise NameConflict(
                f"claim {name} already exists and was not created for training {training.name}: "
                f"set spec.checkpoints.claimName to {name} to use it, or choose another name for the training"
            )
    raise NameConflict(
        f"{kind} {name} already exists and is owned by another object: choose another name for the training, or "
        "delete the object"
    )


async def _ungate(client: KubeClient, pod: ObjectRef, namespace: str) -> Manifest | None:
    """Remove the scheduling gate of the operator from a pod. Returns None if the pod was deleted."""
    gates = [{"$patch": "delete", "name": names.GATE}]
    body = {"metadata": {"uid": pod.uid}, "spec": {"schedulingGates": gates}}
    path = path_of("Pod", namespace, pod.name)
    return await _none_if_deleted(client.request("PATCH", path, body, content=STRATEGIC_PATCH))


async def _update(client: KubeClient, manifest: SharedObject, training: Training) -> Manifest:
    """Replace a child with its desired manifest. Raises NameStillHeld if it belongs to another training."""
    path = path_of(manifest["kind"], training.namespace, manifest["metadata"]["name"])
    found = await client.request("GET", path)
    if owner_of(found, training.name, training.uid) is not Owner.TRAINING:
        raise NameStillHeld(
            f"{manifest['kind']} {manifest['metadata']['name']} is not owned by training {training.name}"
        )
    desired = with_spec_hash(manifest)
    # With the resourceVersion the API server rejects a concurrent write.
    desired["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
    return await client.request("PUT", path, desired)


async def _delete(client: KubeClient, target: ObjectRef, namespace: str) -> Manifest | None:
    """Delete the object with this UID. Returns the object if it is terminating, None if it no longer exists."""
    options: DeleteOptions = {"preconditions": {"uid": target.uid}}
    if target.grace_seconds is not None:
        options["gracePeriodSeconds"] = target.grace_seconds
    path = path_of(target.kind, namespace, target.name)
    answer = await _none_if_deleted(client.request("DELETE", path, options))
    return answer if answer and answer.get("kind") == target.kind else None


async def _none_if_deleted(write: Awaitable[Manifest]) -> Manifest | None:
    """The response to a write; None if the object with this uid no longer exists."""
    try:
        return await write
    except ApiError as error:
        # 404: deleted; 409: another object has the name.
        if error.code in (404, 409):
            return None
        raise


async def _gather(writes: Iterable[Awaitable[_Answer]]) -> list[_Answer]:
    """Run writes concurrently. An error is raised only after all have finished, so that none is still in flight."""
    answers = await asyncio.gather(*writes, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]
