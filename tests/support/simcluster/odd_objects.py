"""Malformed and unusual requests of a tenant, and of buggy controllers in the tenant's namespace.

A seed determines the sequence of requests. The number of objects is bounded, since all names come from small sets.
Whether the API server accepts a request depends on earlier ones. Only a `valid` training must be accepted, unless
another one of its name exists.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from resnext_operator.rendering import names
from tests.support.simcluster.api import TRAININGS, Manifest
from tests.support.simcluster.kwok_nodes import SIMULATED, training

MERGE = "application/merge-patch+json"
CLAIM = "checkpoints"
"""The claim that most of the tenant's trainings share."""

TRAININGS_OF_TENANT = tuple(f"odd-{index}" for index in range(6))
SPARE = "-spare"
"""Suffix of the namespace that is created and deleted repeatedly."""

_QUOTA, _LIMITS = "few", "small"
_MAX_TEXT = 100_000
_MAX_MESSAGE = 4096  # The kubelet truncates termination messages to this length.
_LABEL = "a" * 63
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_KINDS = {
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}
_STATUS_FIELDS = (
    *("phase", "reason", "conditions", "attempts", "progress", "checkpoint", "workers", "summary", "startTime"),
    *("completionTime", "observedGeneration", "suspendedTime", "runId", "failedStarts", "nodes", "goodput", "unknown"),
)
_PROGRESS_FIELDS = (
    "attempt",
    "phaseSeconds",
    "epoch",
    "epochs",
    "step",
    "steps",
    "loss",
    "imagesPerSecond",
    "checkpoint",
    "top1",
)
_TEXTS = (
    *("", " ", "x", "0", "-1", "1e309", "NaN", "true", "null", "{}", "[", "\n\r\t", "\x01\x1b[31m", "\u2028", "ﬀ𝕏🦆"),
    *("0000-00-00T00:00:00Z", "9999-12-31T23:59:60Z", "2026-01-01", "<invalid>", "%s%n", "../../etc", "{{ .Secret }}"),
)
_NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 10**19, 1e308, -1e308, 5e-324, 0.1)


@dataclass(frozen=True)
class Action:
    """One request to the API server."""

    what: str
    method: str
    path: str
    body: Manifest | None = None
    content: str = "application/json"
    valid: bool = False
    """Whether the action creates a training that the schema accepts."""


def actions(seed: int, namespace: str) -> Iterator[Action]:
    """Infinite sequence of requests of a seed."""
    tenant = Tenant(Random(seed), namespace)
    makers = [each for each, weight in tenant.makers() for _ in range(weight)]
    while True:
        yield tenant.random.choice(makers)()


def anything(random: Random, depth: int = 4) -> Any:
    """JSON of any type, sometimes deeply nested or long."""
    kind = random.randrange(8 if depth else 5)
    if kind == 0:
        return random.choice((None, True, False))
    if kind in (1, 2):
        return random.choice(_NUMBERS)
    if kind in (3, 4):
        return text(random)
    if kind == 5 and random.random() < 0.1:
        return _nested(random.randrange(20, 200))
    if kind in (5, 6):
        return [anything(random, depth - 1) for _ in range(random.randrange(4))]
    return {text(random)[:100]: anything(random, depth - 1) for _ in range(random.randrange(4))}


def text(random: Random, limit: int = _MAX_TEXT) -> str:
    """A string, rarely of maximum length."""
    if random.random() < 0.03:
        return random.choice(("x", "é", "[")) * (limit // 2)
    return random.choice(_TEXTS)


def _nested(depth: int) -> Any:
    found: Any = "end"
    for level in range(depth):
        found = [found] if level % 2 else {"in": found}
    return found


def answer(random: Random) -> tuple[bytes, float, int]:
    """A response to GET /progress: the data, the pause after each part in seconds, and the number of repetitions."""
    ok = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    close = b"Connection: close\r\n\r\n"
    sound = {"attempt": 1, "epoch": 4, "epochs": 8, "step": 40, "steps": 80, "loss": 0.5}
    wrong = sound | {random.choice(_PROGRESS_FIELDS): anything(random)}
    return random.choice(
        (
            (ok + close + b"\xff\xfe{}", 0.0, 1),
            (ok + b"Content-Type: text/html; charset=no-such\r\n" + close + b"{}", 0.0, 1),
            (ok + b"Content-Encoding: gzip\r\n" + close + b"no gzip", 0.0, 1),
            (ok + b"Content-Length: 1000000000000\r\n" + close + b" " * 65536, 0.0, 2000),
            (ok + close + b'{"attempt": ', 0.5, 60),
            (ok + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 0.0, 1),
            (ok + b"X: " + b"x" * 100_000 + b"\r\n" + close, 0.0, 1),
            (b"HTTP/1.1 302 Found\r\nLocation: /progress\r\nContent-Length: 0\r\n\r\n", 0.0, 1),
            (b"HTTP/1.1 200 \xff\r\n\r\n", 0.0, 1),
            (b"\x00" * 1000, 0.0, 1),
            (b"", 30.0, 1),
            (ok + close + b"[" * 60_000, 0.0, 1),
            (ok + close + b'{"step": ' + b"9" * 5000 + b"}", 0.0, 1),
            (ok + close + json.dumps(sound | {"step": 2**63, "steps": 1, "stepSeconds": 1e308}).encode(), 0.0, 1),
            (ok + close + json.dumps(wrong).encode(), 0.0, 1),
            (ok + close + json.dumps(anything(random)).encode(), 0.0, 1),
        )
    )


class Tenant:
    """Builds requests; all methods use the same random generator."""

    def __init__(self, random: Random, namespace: str) -> None:
        self.random, self.namespace = random, namespace

    def makers(self) -> list[tuple[Callable[[], Action], int]]:
        """The kinds of requests and their weights."""
        return [
            (self.create_training, 24),
            (partial(self.create_training, sound=False), 3),
            (self.patch_status, 12),
            (self.patch_metadata, 4),
            (self.suspend, 6),
            (self.scale, 5),
            (self.delete_training, 8),
            (self.create_child, 5),
            (self.delete_child, 6),
            (self.relabel_pod, 8),
            (self.patch_pod_status, 20),
            (self.answer_unexpectedly, 20),
            (self.create_labeled_pod, 5),
            (self.create_quota, 1),
            (self.create_limits, 1),
            (self.delete_quota, 6),
            (self.delete_limits, 6),
            (self.create_namespace, 1),
            (self.create_in_spare, 2),
            (self.delete_namespace, 1),
        ]

    # -- trainings -----------------------------------------------------------------------------------------------------

    def create_training(self, sound: bool = True) -> Action:
        manifest = self._training(self._name())
        if sound:
            self._extremes(manifest)
        else:
            self._mistakes(manifest)
        return Action("create training", "POST", self._trainings(), manifest, valid=sound)

    def _training(self, name: str) -> Manifest:
        attempts = self.random.choice((0, 0, 0, 1, 2))
        code = self.random.choice((0, 0, 1, 3))
        replicas = self.random.randrange(1, 4)
        manifest = training(name, replicas=replicas, last_attempt=attempts, seconds=2, exit_code=code)
        # Copied, because workers and launcher would otherwise share one dictionary of annotations.
        copied: Manifest = json.loads(json.dumps(manifest))
        if self.random.random() < 0.8:
            copied["spec"]["checkpoints"] = {"claimName": CLAIM, "subPath": name}
        return copied

    def _extremes(self, manifest: Manifest) -> None:
        """Values at the limits of what the schema accepts."""
        spec = manifest["spec"]
        pods = spec[self.random.choice(("workers", "launcher"))]
        whole: tuple[Callable[[], Any], ...] = (
            lambda: spec["training"].update(epochs=100_000),
            lambda: spec["training"]["data"].update(syntheticImages=1_000_000_000),
            lambda: pods.update(labels={_LABEL: _LABEL, f"example.com/{_LABEL}": "", "x": "x"}),
            lambda: pods["annotations"].update({"example.com/a": "é\u2028🦆\n" * 100, "example.com/b": ""}),
            lambda: pods.update(env=[{"name": f"V{index}", "value": "x" * 4096} for index in range(64)]),
            lambda: pods.update(env=[], labels={}, affinity={}),
            lambda: spec.update(workers={**spec["workers"], "volumes": [], "volumeMounts": []}, imagePullSecrets=[]),
            lambda: spec.update(runPolicy={"activeDeadlineSeconds": 2**31 - 1, "pendingDeadlineSeconds": 2**31 - 1}),
            lambda: spec.update(runPolicy={"activeDeadlineSeconds": 1, "backoffLimit": 0}),
            lambda: spec.update(runPolicy={"ttlSecondsAfterFinished": 0, "cleanPodPolicy": "All"}),
            lambda: spec.update(
                runPolicy={"stallTimeoutMultiple": 2, "stallDeadlineSeconds": 1, "cleanPodPolicy": "None"}
            ),
            lambda: spec.update(suspend=True),
            lambda: spec.update(managedBy="example.com/other"),
            lambda: spec["workers"].update(slots=16),
            lambda: manifest["metadata"].update(labels={_LABEL: _LABEL}, annotations={"example.com/a": "🦆" * 10_000}),
            lambda: manifest["metadata"].update(finalizers=[]),
        )
        for change in self.random.sample(whole, self.random.randrange(1, 4)):
            change()

    def _mistakes(self, manifest: Manifest) -> None:
        """Values that this or another version of the schema rejects; none may affect the operator."""
        spec = manifest["spec"]
        pods = spec[self.random.choice(("workers", "launcher"))]
        field = self.random.choice(("training", "workers", "launcher", "checkpoints", "runPolicy", "dataset", "image"))
        self.random.choice(
            (
                lambda: spec["training"].update(epochs=1_000_000_000),
                lambda: spec.update({field: anything(self.random)}),
                lambda: pods.update({self.random.choice(tuple(pods)): anything(self.random)}),
                lambda: pods.update(labels={names.WORKER: "x"}),
                lambda: pods.update(labels={names.TRAINING: self._name(), names.ROLE: "launcher"}),
                lambda: pods.update(labels={"a" * 64: "x"}),
                lambda: pods.update(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                lambda: spec["checkpoints"].update(subPath="../../.."),
                lambda: pods.update(tolerations=[{"operator": "Equal", "value": "x"}]),
                lambda: pods.update(nodeSelector={"": ""}),
                lambda: manifest["metadata"].update(labels={names.TRAINING: "another", names.ROLE: "launcher"}),
            )
        )()

    def patch_status(self) -> Action:
        """A status patch by a buggy controller with administrator permissions."""
        if self.random.random() < 0.2:
            status: Any = anything(self.random)
        else:
            fields = self.random.sample(_STATUS_FIELDS, self.random.randrange(1, 5))
            status = {field: self._value_in_status(field) for field in fields}
        return Action("patch status", "PATCH", f"{self._trainings()}/{self._name()}/status", {"status": status}, MERGE)

    def _value_in_status(self, field: str) -> Any:
        if self.random.random() < 0.5:
            return anything(self.random)
        if field == "progress":
            return {each: anything(self.random) for each in self.random.sample(_PROGRESS_FIELDS, 3)}
        if field == "conditions":
            return [{"type": "Running", "status": anything(self.random)}, anything(self.random), {"type": 5}]
        if field == "attempts":
            return [{"number": anything(self.random), "cause": anything(self.random), "endTime": "yesterday"}]
        return self.random.choice(("Succeeded", "Running", "NoSuchPhase", ["x"], {"a": None}, 5))

    def patch_metadata(self) -> Action:
        field = self.random.choice(("labels", "annotations"))
        keys = (names.TRAINING, names.ROLE, names.WORKER, names.SPEC_HASH, "example.com/x", _LABEL)
        value = self.random.choice((None, "", "x", self._name(), text(self.random, 50_000)))
        body = {"metadata": {field: {self.random.choice(keys): value}}}
        return Action("patch metadata", "PATCH", f"{self._trainings()}/{self._name()}", body, MERGE)

    def suspend(self) -> Action:
        body = {"spec": {"suspend": self.random.random() < 0.4}}
        return Action("suspend or resume", "PATCH", f"{self._trainings()}/{self._name()}", body, MERGE)

    def scale(self) -> Action:
        replicas = self.random.choice((1, 1, 2, 3, 4, 4, 0, -1, 257))
        spec: dict[str, Any]
        if self.random.random() < 0.5:
            path, spec = f"{self._trainings()}/{self._name()}/scale", {"replicas": replicas}
        else:
            path, spec = f"{self._trainings()}/{self._name()}", {"workers": {"replicas": replicas}}
        return Action("scale", "PATCH", path, {"spec": spec}, MERGE)

    def delete_training(self) -> Action:
        # Orphans count as foreign objects afterwards, so the next training of this name fails immediately.
        how = self.random.choice((*("Background",) * 6, *("Foreground",) * 3, "Orphan"))
        body = {"propagationPolicy": how}
        return Action("delete training", "DELETE", f"{self._trainings()}/{self._name()}", body)

    # -- children ------------------------------------------------------------------------------------------------------

    def create_child(self) -> Action:
        """Foreign objects that have the names of child objects."""
        kind = self.random.choice(tuple(_KINDS))
        # For half of the trainings only, because such an object makes its training fail.
        name = self._child(kind, self.random.choice(TRAININGS_OF_TENANT[::2]))
        labels = self.random.choice(({}, names.labels(self._name(), "worker"), self._labels()))
        manifest: Manifest = {"metadata": {"name": name, "labels": labels}}
        if kind == "pods":
            manifest["spec"] = self._pod_spec()
        elif kind == "configmaps":
            manifest["data"] = {names.CONFIG_FILE: text(self.random), "x": ""}
        elif kind == "secrets":
            manifest |= {"type": "example.com/odd", "stringData": {"id_ed25519": text(self.random), "x": ""}}
        elif kind == "persistentvolumeclaims":
            # The StorageClass does not exist, so the claim stays Pending.
            manifest["spec"] = {
                "storageClassName": "no-such-class",
                "accessModes": ["ReadWriteOncePod"],
                "resources": {"requests": {"storage": "1Ki"}},
            }
        else:
            manifest["spec"] = {"podSelector": {}, "policyTypes": ["Egress"]}
        return Action(f"create another's {kind}", "POST", self._of(kind), manifest)

    def delete_child(self) -> Action:
        kind = self.random.choice(tuple(_KINDS))
        body = {"gracePeriodSeconds": 0} if self.random.random() < 0.5 else None
        return Action(f"delete {kind}", "DELETE", f"{self._of(kind)}/{self._child(kind, self._name())}", body)

    def create_labeled_pod(self) -> Action:
        """A pod with the labels of a training that does not own it."""
        manifest = {
            "metadata": {"name": f"stray-{self.random.randrange(8)}", "labels": self._labels()},
            "spec": self._pod_spec(),
        }
        if self.random.random() < 0.3:
            owner = {"apiVersion": "resnext.dev/v1alpha2", "kind": "ResNeXtTraining", "name": self._name()}
            # The garbage collector deletes it, because no object has this uid.
            manifest["metadata"]["ownerReferences"] = [owner | {"uid": "no-such-uid", "controller": True}]
        return Action("create labeled pod", "POST", self._of("pods"), manifest)

    def relabel_pod(self) -> Action:
        body = {"metadata": {"labels": self._labels(removals=True)}}
        return Action("relabel pod", "PATCH", f"{self._of('pods')}/{self._pod()}", body, MERGE)

    def patch_pod_status(self) -> Action:
        """A pod status patch by a buggy node agent. The runner replaces `address_of_odd_ranks`."""
        words = self.random.choice(
            (
                text(self.random, _MAX_MESSAGE),
                json.dumps(anything(self.random))[:_MAX_MESSAGE],
                "".join(chr(self.random.randrange(1, 0xD7FF)) for _ in range(1000)),
                "[" * _MAX_MESSAGE,
                json.dumps({"verdict": anything(self.random, 1), "message": text(self.random, 1000), "rank": 10**30}),
            )
        )
        code = self.random.choice((0, 1, -1, 7, 137, 255, 2**31 - 1))
        ended = {"exitCode": code, "message": words, "reason": self.random.choice(("Error", "OOMKilled", "", "x"))}
        state: Manifest = self.random.choice(
            ({"terminated": ended}, {"waiting": {"reason": "ImagePullBackOff", "message": words}}, {"running": {}}, {})
        )
        container = {"name": self.random.choice(("launcher", "worker", "other")), "image": "", "imageID": ""}
        address = self.random.choice((ADDRESS_OF_ODD_RANKS,) * 6 + ("192.0.2.255", "2001:db8::1", "x", ""))
        status: Manifest = self.random.choice(
            (
                {"podIP": address, "podIPs": [{"ip": address}] if address else []},
                {"podIP": address, "podIPs": [{"ip": address}] if address else [], "phase": "Running"},
                {"phase": self.random.choice(_PHASES)},
                {"phase": "Failed", "reason": "Evicted", "message": words},
                {"containerStatuses": [container | {"ready": True, "restartCount": 2**31 - 1, "state": state}]},
                {"containerStatuses": [container | {"ready": False, "restartCount": -1, "state": state}] * 2},
                {"containerStatuses": []},
                {"conditions": [{"type": text(self.random, 300), "status": "True"}, {"type": "Ready", "status": ""}]},
                {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "", "message": words}]},
                {"message": words, "reason": words[:100]},
            )
        )
        return Action(
            "patch pod status", "PATCH", f"{self._of('pods')}/{self._pod()}/status", {"status": status}, MERGE
        )

    def answer_unexpectedly(self) -> Action:
        """Set the address of worker 0 to that of the odd ranks, so that the operator polls them."""
        body = {"status": {"podIP": ADDRESS_OF_ODD_RANKS, "podIPs": [{"ip": ADDRESS_OF_ODD_RANKS}]}}
        path = f"{self._of('pods')}/{names.worker(self._name(), 0, 0)}/status"
        return Action("patch worker 0's address", "PATCH", path, body, MERGE)

    # -- quotas and namespaces -----------------------------------------------------------------------------------------

    def create_quota(self) -> Action:
        hard = self.random.choice(
            ({"pods": "1"}, {"limits.cpu": "1"}, {"requests.memory": "1Mi"}, {"count/secrets": "0"})
        )
        return Action(
            "create quota", "POST", self._of("resourcequotas"), {"metadata": {"name": _QUOTA}, "spec": {"hard": hard}}
        )

    def delete_quota(self) -> Action:
        return Action("delete quota", "DELETE", f"{self._of('resourcequotas')}/{_QUOTA}")

    def create_limits(self) -> Action:
        limit = self.random.choice(
            # The first one is also a default limit that is below the pods' requests.
            ({"type": "Container", "max": {"cpu": "1m"}}, {"type": "Pod", "min": {"cpu": "100"}})
        )
        spec = {"limits": [limit]}
        return Action("create limits", "POST", self._of("limitranges"), {"metadata": {"name": _LIMITS}, "spec": spec})

    def delete_limits(self) -> Action:
        return Action("delete limits", "DELETE", f"{self._of('limitranges')}/{_LIMITS}")

    def create_namespace(self) -> Action:
        metadata = {"name": self.namespace + SPARE, "labels": {SIMULATED: "true"}}
        return Action("create namespace", "POST", "/api/v1/namespaces", {"metadata": metadata})

    def create_in_spare(self) -> Action:
        manifest = self._training("it")
        return Action("create training in the spare namespace", "POST", self._trainings(SPARE), manifest, valid=True)

    def delete_namespace(self) -> Action:
        return Action("delete namespace", "DELETE", f"/api/v1/namespaces/{self.namespace}{SPARE}")

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return self.random.choice(TRAININGS_OF_TENANT)

    def _trainings(self, suffix: str = "") -> str:
        return f"{TRAININGS}/namespaces/{self.namespace}{suffix}/resnexttrainings"

    def _of(self, kind: str) -> str:
        return f"{_KINDS.get(kind, '/api/v1')}/namespaces/{self.namespace}/{kind}"

    def _pod(self, name: str = "") -> str:
        if not name and self.random.random() < 0.1:
            return f"stray-{self.random.randrange(8)}"
        name = name or self._name()
        if self.random.random() < 0.3:
            return names.launcher(name, self.random.randrange(1, 4))
        return names.worker(name, self.random.choice((0, 0, 0, 1, 2)), self.random.choice((0, 0, 0, 1, 2)))

    def _child(self, kind: str, name: str) -> str:
        if kind == "pods":
            return self._pod(name)
        if kind == "networkpolicies":
            return name
        return {
            "configmaps": names.config_map_name,
            "secrets": names.secret_name,
            "persistentvolumeclaims": names.claim_name,
        }[kind](name)

    def _labels(self, removals: bool = False) -> dict[str, Any]:
        keys = (
            names.TRAINING,
            names.ROLE,
            names.WORKER,
            names.ATTEMPT,
            names.WORKER_GENERATION,
            names.WORKERS,
            names.REVISION,
        )
        values = ("x", "", "-1", "0", "99999999999999999999", "1e3", _LABEL, "launcher", "worker", self._name())
        chosen = self.random.sample(keys, self.random.randrange(1, 4))
        return {key: self.random.choice((*values, None) if removals else values) for key in chosen}

    def _pod_spec(self) -> Manifest:
        return {
            "nodeSelector": {SIMULATED: "true"},
            "tolerations": [{"key": SIMULATED, "operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": self.random.choice(("launcher", "worker", "x")), "image": "played"}],
        }


ADDRESS_OF_ODD_RANKS = "address-of-odd-ranks"
"""Placeholder of the address at which `answer` is served."""


def addressed(action: Action, address: str) -> Action:
    """The action with the placeholder replaced by the address."""
    if action.body is None:
        return action
    body = json.loads(json.dumps(action.body).replace(ADDRESS_OF_ODD_RANKS, address))
    return Action(action.what, action.method, action.path, body, action.content, action.valid)
