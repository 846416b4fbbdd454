"""What the cluster was last seen to hold, trimmed to what decisions need.

Answers to the operator's own writes go in here at once, so that no decision is made on what was before them: nothing is
created twice while the watch is behind.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from resnext_operator import names
from resnext_operator.api import KIND, Key, Manifest

PODS, CLAIMS = "Pod", "PersistentVolumeClaim"
_METADATA = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
    *("labels", "ownerReferences"),
)
_POD_STATUS = ("phase", "reason", "message", "podIP")
_CONDITIONS = ("PodScheduled", "Ready", "DisruptionTarget")
_STATES = ("waiting", "terminated")


def trimmed(found: Manifest) -> Manifest:
    """An object without what nobody reads, and with one copy of each word: 2 kB of the 44 that a pod comes in with."""
    metadata = {key: found["metadata"][key] for key in _METADATA if key in found["metadata"]}
    if (desired := (found["metadata"].get("annotations") or {}).get(names.HASH)) and found["kind"] != PODS:
        metadata["annotations"] = {names.HASH: desired}
    kept = {"apiVersion": found.get("apiVersion"), "kind": found["kind"], "metadata": metadata}
    if found["kind"] == KIND:
        kept |= {"spec": found.get("spec") or {}, "status": found.get("status") or {}}
    elif found["kind"] == PODS:
        kept |= {
            "spec": {"nodeName": found.get("spec", {}).get("nodeName")},
            "status": _pod_status(found.get("status") or {}),
        }
    elif found["kind"] == CLAIMS:
        kept |= {"spec": {"accessModes": (found.get("spec") or {}).get("accessModes") or []}}
    interned: Manifest = _interned(kept)
    return interned


def _pod_status(status: Manifest) -> Manifest:
    kept = {key: status[key] for key in _POD_STATUS if key in status}
    if conditions := [each for each in status.get("conditions") or () if each["type"] in _CONDITIONS]:
        kept["conditions"] = conditions
    states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
    if told := [{key: state[key]} for state in states for key in _STATES if key in state]:
        kept["containerStatuses"] = [{"state": state} for state in told]
    return kept


def _interned(value: Any) -> Any:
    """The JSON parser makes each word anew for each object: keys, labels, namespaces, times."""
    if isinstance(value, dict):
        return {sys.intern(key): _interned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interned(inner) for inner in value]
    return sys.intern(value) if type(value) is str else value


def version(found: Manifest) -> int:
    """Grows with each write; the API server promises that versions of one resource can be compared."""
    return int(found["metadata"].get("resourceVersion") or 0)


class Cache:
    """Trainings by key, and their children by namespace and name."""

    def __init__(self) -> None:
        self._trainings: dict[Key, Manifest] = {}
        self._children: dict[str, dict[Key, Manifest]] = {}
        self._of: dict[Key, dict[tuple[str, str], Manifest]] = {}
        self._last_launcher: dict[Key, Manifest] = {}

    def known(self) -> list[Key]:
        return list(self._trainings)

    def trainings(self) -> Iterator[Manifest]:
        yield from list(self._trainings.values())

    def training(self, key: Key) -> Manifest | None:
        return self._trainings.get(key)

    def children(self, training: Manifest, claims: Iterable[str]) -> list[Manifest]:
        """The objects that this training owns, and the claims of its namespace with these names.

        What an earlier training of the same name has left is not among them.
        """
        key, uid = key_of(training), training["metadata"]["uid"]
        all_claims = self._children.get(CLAIMS, {})
        owned = [child for child in self._of.get(key, {}).values() if owned_by(child, uid)]
        return owned + [claim for name in claims if (claim := all_claims.get((key[0], name)))]

    def gone_launcher(self, training: Manifest) -> Manifest | None:
        """The training's last launcher pod that went, as it was then: its verdict outlives it."""
        found = self._last_launcher.get(key_of(training))
        return found if found and owned_by(found, training["metadata"]["uid"]) else None

    def put(self, found: Manifest) -> None:
        """An object as it was just seen; an older view of it changes nothing."""
        kind, key = found["kind"], key_of(found)
        known = self._trainings if kind == KIND else self._children.setdefault(kind, {})
        if (old := known.get(key)) and version(old) > version(found):
            return
        new = trimmed(found)
        known[key] = new
        if kind != KIND and (training := training_of(new)):
            self._of.setdefault(training, {})[kind, key[1]] = new

    def drop(self, gone: Manifest) -> None:
        """An object that is no more; its successor of the same name stays."""
        kind, key = gone["kind"], key_of(gone)
        known = self._trainings if kind == KIND else self._children.get(kind, {})
        if (old := known.get(key)) and old["metadata"]["uid"] == gone["metadata"]["uid"]:
            del known[key]
            if kind == KIND:
                self._last_launcher.pop(key, None)
            elif kind == PODS and (gone["metadata"].get("labels") or {}).get(names.ROLE) == "launcher":
                self._remember(gone)
            if kind != KIND and (training := training_of(old)):
                siblings = self._of[training]
                del siblings[kind, key[1]]
                if not siblings:
                    del self._of[training]

    def _remember(self, launcher: Manifest) -> None:
        """A training that has gone before its pods will never ask."""
        if (training := training_of(launcher)) and training in self._trainings:
            self._last_launcher[training] = trimmed(launcher)

    def replace(self, kind: str, namespace: str | None, listed: Iterable[Manifest], at: int) -> list[Manifest]:
        """All objects of a kind as of a version: what is missing and older than it is gone. Returns what changed."""
        changed, present = [], set()
        known = self._trainings if kind == KIND else self._children.setdefault(kind, {})
        for found in listed:
            present.add(found["metadata"]["uid"])
            old = known.get(key_of(found))
            if old is None or version(old) < version(found):
                self.put(found)
                changed.append(found)
        gone = [
            old
            for key, old in known.items()
            if namespace in (None, key[0]) and old["metadata"]["uid"] not in present and version(old) <= at
        ]
        for old in gone:
            self.drop(old)
        return changed + gone


def owned_by(child: Manifest, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in child["metadata"].get("ownerReferences") or ())


def training_of(child: Manifest) -> Key | None:
    """The training that a child belongs to, by its label."""
    name = (child["metadata"].get("labels") or {}).get(names.TRAINING)
    return (child["metadata"]["namespace"], name) if name else None


def key_of(found: Manifest) -> Key:
    metadata: dict[str, Any] = found["metadata"]
    return metadata["namespace"], metadata["name"]
