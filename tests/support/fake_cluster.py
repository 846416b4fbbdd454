"""A model of a cluster that applies plans and reports pods as the kubelet does."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import yaml

from resnext_operator.api.objects import Manifest
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.status import Status
from resnext_operator.api.timestamps import to_rfc3339
from resnext_operator.api.training import Training
from resnext_operator.domain.observed import ClusterState, Rejection
from resnext_operator.domain.plan import Plan
from resnext_operator.domain.reconciler import decide
from resnext_operator.domain.rejections import plan_after_api_rejection
from resnext_operator.rendering import names
from resnext_operator.rendering.hashing import spec_hash
from resnext_operator.runtime import observe, ownership, training_reader
from resnext_operator.runtime.cached_objects import CachedObject
from resnext_trainer.contract import ExitStatus, Progress, SavedCheckpoint, TerminationReport

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
SITE = OperatorPolicy("registry.example/resnext-trainer:1")
HOSTS = [("resnext-digits-worker-0-0", "10.0.0.1"), ("resnext-digits-worker-1-0", "10.0.0.2")]


def resource(stem: str = "resnext-digits", **spec: Any) -> Manifest:
    """A sample as the API server stores it, with fields of its spec replaced."""
    loaded: Manifest = yaml.safe_load((SAMPLES / f"{stem}.yaml").read_text())
    loaded["metadata"] |= {"namespace": "default", "uid": "training-uid", "generation": 1}
    loaded["spec"] |= spec
    return loaded


def is_pod(role: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda each: each["kind"] == "Pod" and each["metadata"]["labels"][names.ROLE] == role


def names_of(objects: Iterable[Manifest]) -> list[str]:
    return [each["metadata"]["name"] for each in objects]


def condition(cluster: "Cluster", kind: str) -> Manifest:
    """A condition of the training; empty while it has none."""
    return next((each for each in cluster.status["conditions"] if each["type"] == kind), {})


def _as_desired(manifest: Manifest) -> Manifest:
    return {
        key: value
        for key, value in manifest["metadata"].items()
        if key not in ("uid", "annotations", "creationTimestamp")
    }


class Cluster:
    """One training and its children."""

    def __init__(self, stem: str = "resnext-digits", **spec: Any) -> None:
        self.body = resource(stem, **spec)
        self.site = SITE
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.objects: dict[str, Manifest] = {}
        self.deleted_launchers: list[Manifest] = []
        self.progress: Progress | None = None
        self.events: list[str] = []
        self.made: list[str] = []
        self.updated: list[str] = []
        self.deleted = False
        self._uids = 0
        self.quota = False
        self.checks = self.launcher_checks = 0
        self.launcher_rejected: Rejection | None = None
        self.last_steps: dict[int, int | None] = {}
        for claim in ("digits-data", "imagenet"):
            self.claim(claim, "ReadWriteMany")

    # -- operator ------------------------------------------------------------------------------------------------

    @property
    def training(self) -> Training:
        return training_reader.read(copy.deepcopy(self.body), self.site)

    @property
    def seen(self) -> ClusterState:
        # The operator does not watch Secrets.
        children = cast("list[CachedObject]", [each for each in self.objects.values() if each["kind"] != "Secret"])
        deleted_launchers = cast("list[CachedObject]", self.deleted_launchers)
        metadata = self.body["metadata"]
        foreign = ownership.foreign_claims(children, metadata["name"], metadata["uid"])
        return observe.observe(children, deleted_launchers, self.progress, self.last_steps, foreign_claims=foreign)

    @property
    def status(self) -> Manifest:
        return self.body.get("status") or {}

    def decide(self) -> Plan:
        seen = self.seen
        plan = decide(self.training, seen, self.now)
        for _ in range(3):
            if plan.needs_admission:
                self.checks += 1
                seen = replace(seen, quota=self.quota)
            if plan.needs_launcher_admission:
                self.launcher_checks += 1
                if self.launcher_rejected:
                    return self.rejected(plan, self.launcher_rejected)
                seen = replace(seen, launcher_admitted=True)
            if plan.needs_ssh_secret:
                seen = replace(seen, keys=self._keys())
            if not (plan.needs_admission or plan.needs_launcher_admission or plan.needs_ssh_secret):
                return plan
            plan = decide(self.training, seen, self.now)
        raise AssertionError("the operator requests the same information repeatedly")

    @property
    def requeue_seconds(self) -> float:
        """Seconds until the planned requeue; fails if there is none."""
        after = self.decide().requeue_after
        assert after is not None, "no requeue is planned"
        return after.total_seconds()

    def rejected(self, plan: Plan, rejection: Rejection) -> Plan:
        """Record that the API server rejected an object of a plan."""
        return plan_after_api_rejection(self.training, plan, rejection, self.now)

    def _keys(self) -> str:
        name = names.secret_name(self.body["metadata"]["name"])
        self._store({"kind": "Secret", "metadata": {"name": name}})
        return str(self.objects[f"Secret/{name}"]["metadata"]["uid"])

    def apply_plan(self, plan: Plan) -> None:
        for manifest in plan.create:
            self._store(dict(copy.deepcopy(manifest)))
        for manifest in plan.update:
            self.updated.append(f"{manifest['kind']}/{manifest['metadata']['name']}")
            del self.objects[self.updated[-1]]
            self._store(dict(copy.deepcopy(manifest)))
        for reference in plan.ungate:
            del self.objects[reference.name]["spec"]["schedulingGates"]
        for reference in plan.delete:
            if reference.kind == "Pod":
                self.remove(reference.name)
            else:
                self.deleted = True
        self.body["status"] = json.loads(json.dumps(plan.status.to_json()))
        assert Status.parse(self.body["status"]).to_json() == self.body["status"], (
            "the operator cannot parse its own status"
        )
        self.events += [event.reason for event in plan.events]

    def settle(self) -> None:
        """Reconcile until nothing changes; fails if that does not converge."""
        for _ in range(20):
            plan = self.decide()
            if not (plan.create or plan.update or plan.delete or plan.ungate) and plan.status.to_json() == self.status:
                assert not plan.events
                return
            self.apply_plan(plan)
            if self.deleted:
                return
        raise AssertionError(f"reconciliation does not converge: {plan}")

    # -- kubelet and users ---------------------------------------------------------------------------------------

    def claim(self, name: str, *modes: str) -> None:
        self._store({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {"accessModes": list(modes)}})

    def pods(self, role: str) -> list[Manifest]:
        return sorted(filter(is_pod(role), self.objects.values()), key=lambda each: str(each["metadata"]["name"]))

    def ready(self) -> None:
        """Start all pending pods, each on its own node."""
        for pod in self.objects.values():
            gated = pod["kind"] == "Pod" and pod["spec"].get("schedulingGates")
            if pod["kind"] == "Pod" and not pod.get("status") and not gated:
                pod["spec"]["nodeName"] = f"node-{pod['metadata']['labels'].get(names.WORKER, 'l')}"
                ready = {"type": "Ready", "status": "True"}
                pod["status"] = {"phase": "Running", "conditions": [ready], "podIP": f"10.0.0.{len(self.made)}"}

    def train(self, step: int, saved: int | None = None) -> None:
        """Report that the ranks of the current attempt reached a step."""
        checkpoint = SavedCheckpoint(step=saved, time=self.now, path=f"/checkpoints/{saved}") if saved else None
        attempt = self.status["attempts"][-1]["number"]
        self.progress = Progress(
            attempt=attempt, epoch=step / 20, epochs=8, step=step, steps=160, loss=0.5, checkpoint=checkpoint
        )

    def end(self, status: ExitStatus, message: str = "because", report: bool = True) -> None:
        """The launcher ends with an exit status."""
        termination_message = (
            TerminationReport(verdict=status.name.lower(), message=message).model_dump_json(by_alias=True)
            if report
            else ""
        )
        self.end_pod(self.pods("launcher")[-1], status.value, termination_message)

    def end_pod(self, pod: Manifest, code: int, message: str) -> None:
        ended = {"exitCode": code, "message": message, "finishedAt": to_rfc3339(self.now)}
        phase = "Failed" if code else "Succeeded"
        pod["status"] = {"phase": phase, "containerStatuses": [{"state": {"terminated": ended}}]}

    def remove(self, name: str) -> None:
        """Delete a pod; a launcher saves first if its deletion was requested."""
        pod = self.objects.pop(name)
        if is_pod("launcher")(pod):
            if (pod.get("status") or {}).get("phase") == "Running":
                self.end_pod(
                    pod, 75, TerminationReport(verdict="stopped", message="saved").model_dump_json(by_alias=True)
                )
            self.deleted_launchers.append(pod)

    def vanish(self, name: str) -> None:
        """Delete a pod without a grace period."""
        del self.objects[name]

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)

    def run(self) -> None:
        """Reconcile until the attempt is training."""
        self.settle()
        self.ready()
        self.settle()
        self.ready()
        self.train(20, 20)
        self.settle()

    def _store(self, manifest: Manifest) -> None:
        name = manifest["metadata"]["name"]
        key = name if manifest["kind"] == "Pod" else f"{manifest['kind']}/{name}"
        if key not in self.objects:  # otherwise the API server returns 409
            self._uids += 1
            manifest["metadata"]["uid"] = f"uid-{self._uids}"
            manifest["metadata"]["creationTimestamp"] = to_rfc3339(self.now)
            if manifest["kind"] == "NetworkPolicy":
                annotations = manifest["metadata"].setdefault("annotations", {})
                annotations[names.SPEC_HASH] = spec_hash({**manifest, "metadata": _as_desired(manifest)})
            self.objects[key] = manifest
            self.made.append(key)
