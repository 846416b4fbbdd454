"""What the cluster was last seen to hold, trimmed to what decisions need.

Answers to the operator's own writes go in here at once, so that no decision is made on what was before them: nothing is
created twice while the watch is behind. Which training a child belongs to is decided by its owner reference: labels
can be changed by every user who may change the child.
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
"""Levels of a resource that are kept: fields of ours end well before, and a status may hold anything."""


def prune(found: AnyObject) -> CachedObject:
    """An object without what nobody reads, and with one copy of each word: 2 kB of the 44 that a pod comes in with.

    Raises ValueError for what cannot be an object: without a name, for example.
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
        # Of what another manager looks after nothing is read.
        ours = managed_by(found) == CONTROLLER_NAME
        kept["spec"], kept["status"] = (spec, status) if ours else ({"managedBy": spec["managedBy"]}, {})
        return cast("CachedObject", _intern_strings(kept, _MAX_DEPTH))
    if labels := {key: value for key, value in dictionary(raw.get("labels")).items() if key in _LABELS}:
        metadata["labels"] = labels
    # A claim of ours has no owner: whatever else owns a claim matters as well.
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
    """The JSON parser makes each word anew for each object: keys, labels, namespaces, times."""
    if isinstance(value, dict | list) and depth == 0:
        return None
    if isinstance(value, dict):
        return {sys.intern(key): _intern_strings(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_intern_strings(inner, depth - 1) for inner in value]
    return sys.intern(value) if type(value) is str else value


def version(found: CachedObject) -> int:
    """Grows with each write; the API server promises that versions of one resource can be compared."""
    return int(found["metadata"].get("resourceVersion") or 0)


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

        What an earlier training of the same name has left is not among them.
        """
        key, uid = key_of(training), training["metadata"]["uid"]
        all_claims = self._children.get(CLAIMS, {})
        owned = [child for child in self._of.get(key, {}).values() if owned_by(child, uid)]
        return owned + [claim for name in claims if (claim := all_claims.get((key[0], name)))]

    def last_deleted_launcher(self, training: AnyObject) -> CachedObject | None:
        """The training's last launcher pod that went, as it was then: its verdict outlives it."""
        found = self._last_launcher.get(key_of(training))
        return found if found and owned_by(found, training["metadata"]["uid"]) else None

    def upsert(self, found: AnyObject) -> None:
        """An object that was listed, watched or created; an older version than the cached one changes nothing."""
        new = prune(found)
        kind, key = new["kind"], key_of(new)
        known = self._trainings if kind == KIND else self._children.setdefault(kind, {})
        if old := known.get(key):
            if version(old) > version(new):
                return
            self._detach(old)
        training = None if kind == KIND else training_of(new)
        if training:
            self._of.setdefault(training, {})[kind, key[1]] = new
        # Without an owner of ours only a claim can matter to a training, which may name it.
        if training or kind in (KIND, CLAIMS):
            known[key] = new
        else:
            known.pop(key, None)

    def refresh(self, found: AnyObject) -> None:
        """The answer to an update or a DELETE; nothing if the object is no longer cached.

        Such an answer shows the object once more, and may be processed after the watch reported the deletion.
        """
        kind = found["kind"]
        known = self._trainings if kind == KIND else self._children.get(kind, {})
        if (old := known.get(key_of(found))) and old["metadata"].get("uid") == found["metadata"].get("uid"):
            self.upsert(found)

    def remove(self, deleted: AnyObject) -> None:
        """An object that is no more; its successor of the same name stays."""
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

    def _detach(self, old: CachedObject) -> None:
        """An object no longer belongs to the training that it belonged to as it was seen last."""
        if old["kind"] != KIND and (training := training_of(old)) and training in self._of:
            self._of[training].pop((old["kind"], old["metadata"]["name"]), None)
            if not self._of[training]:
                del self._of[training]

    def _retain_launcher(self, pod: CachedObject) -> None:
        """A training that was deleted before its pods does not need it."""
        training = training_of(pod)
        if training and training in self._trainings:
            name = names.pod(training[1], pod["metadata"]["name"])
            if name and name.role == "launcher":
                self._last_launcher[training] = pod

    def concerned(self, found: AnyObject) -> set[TrainingKey]:
        """The training that an object belongs to, and the one that it belonged to as it was seen last."""
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
        """All objects of a kind as of a version: what is missing and older was deleted. Returns what changed.

        skipped: called with each object that cannot be parsed.
        """
        changed, present = [], set()
        known = self._trainings if kind == KIND else self._children.setdefault(kind, {})
        for found in listed:
            try:
                present.add(found["metadata"].get("uid"))
                old = known.get(key_of(found))
                if old is None or version(old) < version(found):
                    if old:
                        changed.append(old)
                    self.upsert(found)
                    changed.append(found)
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
        """Everything of a namespace that was deleted or cannot be read any more."""
        for kind in (*self._children, KIND):
            self.resync(kind, namespace, (), sys.maxsize)
