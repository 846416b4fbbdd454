"""Cache of the cluster's objects, pruned to the fields that reconciliation reads.

The responses to the operator's own writes update the cache immediately, so that a lagging watch does not cause
duplicate objects. A child is assigned to a training by its owner reference, because every user who may update the
child may change its labels.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast

from resnext_operator.api.groupversion import CONTROLLER_NAME, KIND
from resnext_operator.api.objects import TrainingKey
from resnext_operator.rendering import names
from resnext_operator.runtime.cached_objects import (
    AnyObject,
    CachedMetadata,
    CachedObject,
    CachedOwnerReference,
    ClaimSpec,
    ContainerState,
    ContainerStatus,
    PodCondition,
    PodSpec,
    PodStatus,
    SchedulingGate,
)
from resnext_operator.runtime.unstructured import (
    dictionary,
    fields,
    items,
    key_of,
    managed_by,
    owned_by,
    owners,
    training_of,
    word,
)

PODS, CLAIMS = "Pod", "PersistentVolumeClaim"
_Metadata = Literal["uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"]
_METADATA: tuple[_Metadata, ...] = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")
_LABELS = (names.TRAINING, names.MANAGED_BY, names.WORKERS, names.REVISION, names.SSH_SECRET_UID)
_POD_STATUS: tuple[Literal["phase", "reason", "message", "podIP"], ...] = ("phase", "reason", "message", "podIP")
_CONDITIONS = ("PodScheduled", "Ready", "DisruptionTarget")
_STATES: tuple[Literal["waiting", "terminated"], ...] = ("waiting", "terminated")

_MAX_DEPTH = 24
"""Nesting depth that the cache keeps. The operator reads no deeper field, and a status may contain anything."""


def prune(found: AnyObject) -> CachedObject:
    """The object without unused fields and with interned strings: 2 kB instead of 44 kB per pod.

    Raises ValueError if it is not a valid object, for example if it has no name.
    """
    kind, raw = found.get("kind"), dictionary(found.get("metadata"))
    name, namespace = raw.get("name"), raw.get("namespace")
    if not (isinstance(name, str) and isinstance(namespace, str) and isinstance(kind, str)):
        raise ValueError("an object needs a kind, a name and a namespace")
    metadata: CachedMetadata = {"name": name, "namespace": namespace}
    for key in _METADATA:
        if key in raw:
            metadata[key] = raw[key]
    spec, status = dictionary(found.get("spec")), dictionary(found.get("status"))
    kept: CachedObject = {"apiVersion": found.get("apiVersion"), "kind": kind, "metadata": metadata}
    if kind == KIND:
        # The operator reads nothing else of trainings that another controller manages.
        ours = managed_by(found) == CONTROLLER_NAME
        kept["spec"], kept["status"] = (spec, status) if ours else ({"managedBy": spec["managedBy"]}, {})
        return cast("CachedObject", _intern_strings(kept, _MAX_DEPTH))
    if labels := {key: value for key, value in dictionary(raw.get("labels")).items() if key in _LABELS}:
        metadata["labels"] = labels
    # Claims keep all owners: a claim that the operator created has none, so any owner shows that it is foreign.
    owned = items(CachedOwnerReference, raw.get("ownerReferences")) if kind == CLAIMS else owners(found)
    metadata["ownerReferences"] = [_owner(each) for each in owned]
    desired = dictionary(raw.get("annotations")).get(names.SPEC_HASH)
    if desired and kind != PODS:
        metadata["annotations"] = {names.SPEC_HASH: desired}
    if kind == PODS:
        kept["spec"], kept["status"] = _pod_spec(fields(PodSpec, spec)), _pod_status(fields(PodStatus, status))
    elif kind == CLAIMS:
        kept["spec"] = ClaimSpec(accessModes=fields(ClaimSpec, spec).get("accessModes") or [])
    return cast("CachedObject", _intern_strings(kept, _MAX_DEPTH))


def _owner(reference: CachedOwnerReference) -> CachedOwnerReference:
    return {
        "apiVersion": reference.get("apiVersion"),
        "kind": reference.get("kind"),
        "name": reference.get("name"),
        "uid": reference.get("uid"),
    }


def _pod_spec(spec: PodSpec) -> PodSpec:
    kept: PodSpec = {"nodeName": spec.get("nodeName")}
    if gates := items(SchedulingGate, spec.get("schedulingGates")):
        kept["schedulingGates"] = gates
    return kept


def _pod_status(status: PodStatus) -> PodStatus:
    kept: PodStatus = {}
    for key in _POD_STATUS:
        if key in status:
            kept[key] = status[key]
    conditions = items(PodCondition, status.get("conditions"))
    if known := [each for each in conditions if word(each.get("type")) in _CONDITIONS]:
        kept["conditions"] = known
    containers: list[ContainerStatus] = []
    for container in items(ContainerStatus, status.get("containerStatuses")):
        state = fields(ContainerState, container.get("state"))
        containers += [{"state": {key: state[key]}} for key in _STATES if key in state]
    if containers:
        kept["containerStatuses"] = containers
    return kept


def _intern_strings(value: Any, depth: int) -> Any:
    """Intern all strings, because the JSON parser allocates keys, labels and namespaces again for each object."""
    if isinstance(value, dict | list) and depth == 0:
        return None
    if isinstance(value, dict):
        return {sys.intern(key): _intern_strings(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_intern_strings(inner, depth - 1) for inner in value]
    return sys.intern(value) if type(value) is str else value


def version(found: CachedObject) -> int:
    """The resourceVersion as a number. It grows with each write and is comparable between objects of one resource."""
    return int(found["metadata"].get("resourceVersion") or 0)


def _same_content(old: CachedObject, new: CachedObject) -> bool:
    """Whether two versions of an object differ at most in their resourceVersion."""
    version_of_new = {"resourceVersion": new["metadata"].get("resourceVersion")}
    return {**old, "metadata": {**old["metadata"], **version_of_new}} == {
        **new,
        "metadata": {**new["metadata"], **version_of_new},
    }


class Cache:
    """Trainings by key, and their children by namespace and name."""

    def __init__(self) -> None:
        self._trainings: dict[TrainingKey, CachedObject] = {}
        self._children: dict[str, dict[TrainingKey, CachedObject]] = {}
        self._of: dict[TrainingKey, dict[tuple[str, str], CachedObject]] = {}
        self._last_launcher: dict[TrainingKey, CachedObject] = {}

    def training_keys(self) -> list[TrainingKey]:
        return list(self._trainings)

    def trainings(self) -> Iterator[CachedObject]:
        yield from list(self._trainings.values())

    def training(self, key: TrainingKey) -> CachedObject | None:
        return self._trainings.get(key)

    def children(self, training: AnyObject, claims: Iterable[str]) -> list[CachedObject]:
        """The objects that this training owns, and the claims of its namespace with these names.

        Objects of an earlier training with the same name are not included.
        """
        key, uid = key_of(training), training["metadata"]["uid"]
        all_claims = self._children.get(CLAIMS, {})
        owned = [child for child in self._of.get(key, {}).values() if owned_by(child, uid)]
        return owned + [claim for name in claims if (claim := all_claims.get((key[0], name)))]

    def last_deleted_launcher(self, training: AnyObject) -> CachedObject | None:
        """The last state of the training's most recently deleted launcher pod, which has the attempt's exit status."""
        found = self._last_launcher.get(key_of(training))
        return found if found and owned_by(found, training["metadata"]["uid"]) else None

    def upsert(self, found: AnyObject) -> bool:
        """Prune and store an object."""
        return self.store(prune(found))

    def store(self, new: CachedObject) -> bool:
        """Store a pruned object that was listed, watched or created, unless the cached version is newer.

        Returns whether a field that the cache keeps has changed. The caller queues the training only in this case: an
        event without a change, such as the watch event of the operator's own write, needs no reconciliation.
        """
        kind, key = new["kind"], key_of(new)
        known = self._trainings if kind == KIND else self._children.setdefault(kind, {})
        if old := known.get(key):
            if version(old) > version(new):
                return False
            if _same_content(old, new):
                old["metadata"] = new["metadata"]
                return False
            self._detach(old)
        training = None if kind == KIND else training_of(new)
        if training:
            self._of.setdefault(training, {})[kind, key[1]] = new
        # Of the objects without a training as owner, only claims are kept: a spec may name them.
        if training or kind in (KIND, CLAIMS):
            known[key] = new
        else:
            known.pop(key, None)
        return bool(old or key in known)

    def refresh(self, found: AnyObject) -> bool:
        """Store the response to an update or a DELETE, unless the object is no longer cached.

        Such a response may be processed after the watch reported the deletion. Returns whether the cache has changed.
        """
        kind = found["kind"]
        known = self._trainings if kind == KIND else self._children.get(kind, {})
        if (old := known.get(key_of(found))) and old["metadata"].get("uid") == found["metadata"].get("uid"):
            return self.upsert(found)
        return False

    def remove(self, deleted: AnyObject) -> bool:
        """Remove a deleted object; an object recreated under its name is kept. Returns whether it was cached."""
        last = prune(deleted)
        kind, key = last["kind"], key_of(last)
        known = self._trainings if kind == KIND else self._children.get(kind, {})
        if (old := known.get(key)) and old["metadata"].get("uid") == last["metadata"].get("uid"):
            del known[key]
            self._detach(old)
            if kind == KIND:
                self._last_launcher.pop(key, None)
            elif kind == PODS:
                self._retain_launcher(last)
            return True
        return False

    def _detach(self, old: CachedObject) -> None:
        """Remove an object from the children of the training that owned its cached version."""
        if old["kind"] != KIND and (training := training_of(old)) and training in self._of:
            self._of[training].pop((old["kind"], old["metadata"]["name"]), None)
            if not self._of[training]:
                del self._of[training]

    def _retain_launcher(self, pod: CachedObject) -> None:
        """Keep a deleted launcher pod, unless its training was deleted first."""
        training = training_of(pod)
        if training and training in self._trainings:
            name = names.pod(training[1], pod["metadata"]["name"])
            if name and name.role == "launcher":
                self._last_launcher[training] = pod

    def concerned(self, found: AnyObject) -> set[TrainingKey]:
        """The training that owns an object, and the one that owned its cached version."""
        seen = [found, self._children.get(found["kind"], {}).get(key_of(found))]
        return {training for each in seen if each and (training := training_of(each))}

    def resync(
        self,
        kind: str,
        namespace: str | None,
        listed: Iterable[CachedObject],
        at: int,
        skipped: Callable[[CachedObject, Exception], None] = lambda _, __: None,
    ) -> list[CachedObject]:
        """Replace all objects of a kind by a list at version `at`. Returns the objects that changed.

        Cached objects that are older than the list and missing from it were deleted.
        skipped: called with each object that cannot be parsed.
        """
        changed, present = [], set()
        known = self._trainings if kind == KIND else self._children.setdefault(kind, {})
        for found in listed:
            try:
                present.add(found["metadata"].get("uid"))
                old = known.get(key_of(found))
                if (old is None or version(old) < version(found)) and self.store(found):
                    changed += [old, found] if old else [found]
            except Exception as error:
                skipped(found, error)
        deleted = [
            old
            for key, old in known.items()
            if namespace in (None, key[0]) and old["metadata"].get("uid") not in present and version(old) <= at
        ]
        for old in deleted:
            self.remove(old)
        return changed + deleted

    def forget(self, namespace: str) -> None:
        """Remove all objects of a namespace that was deleted or is no longer readable."""
        for kind in (*self._children, KIND):
            self.resync(kind, namespace, (), sys.maxsize)
