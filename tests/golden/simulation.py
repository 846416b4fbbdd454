"""Simulates one training with the real reconciliation code, an in-memory API server and a clock.

Only the scenario advances the clock. It acts as the user, the kubelet and the ranks; `Simulation` records what a user
sees after each step. Only the class Operator depends on how the operator's components are connected.
"""

import asyncio
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import yaml
from prometheus_client import generate_latest

from resnext_operator.runtime import admission_check, controller, training_metrics
from resnext_operator.runtime.admission_check import Admission
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.client import ApiError, KubeClient
from resnext_operator.runtime.event_recorder import EventRecorder
from resnext_operator.runtime.metrics import Metrics
from resnext_operator.runtime.progress_poller import ProgressPoller
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.training_reader import TrainingReader
from resnext_operator.runtime.workqueue import WorkQueue
from resnext_trainer.contract import Progress
from tests.support.merge_patch import merge_patch

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE, NAME, UID = "default", "resnext-digits", "00000000-0000-0000-0000-000000000000"
STEPS, EPOCHS = 160, 8
SETTINGS = {"RESNEXT_TRAINER_IMAGE": "registry.example/resnext-trainer:1"}


def stamp(now: datetime) -> str:
    """A time as the API server writes it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def resource(**spec: Any) -> Manifest:
    """The sample training as the API server stores it, with fields of its spec replaced."""
    body: Manifest = json.loads(sample())
    body["metadata"] |= {"namespace": NAMESPACE, "uid": UID, "generation": 1}
    body["spec"] |= spec
    return body


@cache
def columns() -> list[Manifest]:
    """The columns of `kubectl get`, as the CRD names them."""
    crd = yaml.safe_load((ROOT / "manifests/crd.yaml").read_text(encoding="utf-8"))
    found: list[Manifest] = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    return found


@cache
def sample() -> str:
    """The sample training, as JSON."""
    return json.dumps(yaml.safe_load((ROOT / "manifests/samples/resnext-digits.yaml").read_text(encoding="utf-8")))


class Clock:
    """A clock that advances only when a test sets it; replaces `datetime` and `time` in modules that read the time."""

    def __init__(self) -> None:
        self.time = START

    def now(self, _zone: tzinfo | None = None) -> datetime:
        return self.time

    def fromisoformat(self, text: str) -> datetime:
        return datetime.fromisoformat(text)

    def monotonic(self) -> float:
        return self.offset

    @property
    def offset(self) -> float:
        return (self.time - START).total_seconds()


class ApiServer(KubeClient):
    """Fake of the operator's client with objects in memory. `deliver` reports every change to `watch`."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._uids, self._version = clock, 0, 0
        self.objects: dict[str, Manifest] = {}
        self.log: list[str] = []
        self.rejections: dict[str, tuple[int, str]] = {}
        """Code and message for pods whose name contains the key; dry runs are rejected as well."""
        self.quotas: list[Manifest] = []
        self.watch: Callable[[str, Manifest], None] = lambda _event, _found: None
        self._events: list[tuple[str, Manifest]] = []

    async def request(self, verb: str, path: str, body: Any = None, **options: Any) -> Manifest:
        dry_run = ("dryRun", "All") in options.get("query", ())
        if path.endswith("/resourcequotas"):
            return {"items": self.quotas}
        if verb == "POST":
            return self._post(path, body, dry_run=dry_run)
        status = path.endswith("/status")
        path = path.removesuffix("/status")
        if (found := self.objects.get(path)) is None:
            raise ApiError(404, "not found")
        if verb == "PATCH":
            return self.store(path, self._patched(found, body, status=status))
        if verb == "PUT":
            self.log.append(f"updated {found['kind']} {found['metadata']['name']}")
            return self.store(path, body | {"metadata": found["metadata"] | body["metadata"]})
        if verb == "DELETE":
            self.delete_object(path, at_once=False)
        return copy.deepcopy(found)

    def _post(self, path: str, body: Manifest, *, dry_run: bool) -> Manifest:
        name = body["metadata"]["name"]
        if path.endswith("/pods"):
            for part, (code, message) in self.rejections.items():
                if part in name:
                    raise ApiError(code, message)
        if dry_run:
            return body
        if f"{path}/{name}" in self.objects:
            raise ApiError(409, "already exists")
        if not path.endswith("/events"):
            self.log.append(f"created {body['kind']} {name}")
        return self.store(f"{path}/{name}", body)

    def _patched(self, found: Manifest, body: Manifest, *, status: bool) -> Manifest:
        if status:
            return {**found, "status": merge_patch(found.get("status"), body["status"])}
        if "schedulingGates" in (body.get("spec") or {}):
            self.log.append(f"removed the scheduling gate of {found['metadata']['name']}")
            return {**found, "spec": {**found["spec"], "schedulingGates": []}}
        return merge_patch(found, body)

    def store(self, path: str, body: Manifest) -> Manifest:
        """Store an object as the API server does, and report it to the watch."""
        event = "MODIFIED" if path in self.objects else "ADDED"
        self._version += 1
        if event == "ADDED":
            self._uids += 1
        known = {"uid": f"uid-{self._uids}", "creationTimestamp": stamp(self._clock.time), "namespace": NAMESPACE}
        body = copy.deepcopy(body)
        body["metadata"] = known | body["metadata"] | {"resourceVersion": str(self._version)}
        self.objects[path] = body
        if body.get("kind"):
            self._events.append((event, copy.deepcopy(body)))
        return copy.deepcopy(body)

    def deliver(self) -> None:
        """Deliver the watch events of all changes, always after the responses to the operator's own requests."""
        events, self._events = self._events, []
        for event, found in events:
            self.watch(event, found)

    def delete_object(self, path: str, *, at_once: bool = True) -> None:
        """Delete an object; a pod on a node first gets its deletion timestamp, and its kubelet then terminates it."""
        found = self.objects[path]
        if not at_once and found["kind"] == "Pod" and found["spec"].get("nodeName"):
            if "deletionTimestamp" not in found["metadata"]:
                self.store(
                    path, {**found, "metadata": found["metadata"] | {"deletionTimestamp": stamp(self._clock.time)}}
                )
            return
        del self.objects[path]
        self.log.append(f"deleted {found['kind']} {found['metadata']['name']}")
        self._events.append(("DELETED", copy.deepcopy(found)))


class Queue:
    """Fake of the work queue: whether the training is queued, and the time at which it is queued again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.due = False
        self.again: datetime | None = None

    def add(self, _key: tuple[str, str]) -> None:
        self.due = True

    def add_after(self, _key: tuple[str, str], seconds: float) -> None:
        at = self._clock.time + timedelta(seconds=seconds)
        self.again = min(at, self.again) if self.again else at


class Reported:
    """Fake of the progress poller: the responses of the ranks."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.steps: dict[int, int | None] = {}

    def latest(self, _key: tuple[str, str]) -> Progress | None:
        return self.progress

    def last_steps(self, _key: tuple[str, str]) -> Mapping[int, int | None]:
        return self.steps


class Operator:
    """The operator's components, connected as in the operator process, with a simulated cluster and clock."""

    def __init__(self, server: ApiServer, clock: Clock, environment: Mapping[str, str]) -> None:
        self.queue, self.reported = Queue(clock), Reported()
        known = Cache()
        self._metrics = Metrics(known, lambda: 0)
        self._metrics.leading = True
        self._recorder = EventRecorder(server)
        settings = Settings.from_environment({**SETTINGS, **environment})
        self._runtime = controller.Runtime(
            settings=settings,
            reader=TrainingReader(settings.site),
            cluster=server,
            cache=known,
            queue=cast(WorkQueue, self.queue),
            poller=cast(ProgressPoller, self.reported),
            recorder=self._recorder,
            metrics=self._metrics,
            admission=Admission(server),
        )
        server.watch = self._watch

    @staticmethod
    @contextmanager
    def time_of(clock: Clock) -> Iterator[None]:
        """Replace the time in all components by that of this clock."""
        with ExitStack() as patches:
            patches.enter_context(patch.object(controller, "datetime", clock))
            patches.enter_context(patch.object(training_metrics, "datetime", clock))
            patches.enter_context(patch.object(admission_check, "time", SimpleNamespace(monotonic=clock.monotonic)))
            yield

    def _watch(self, event: str, found: Manifest) -> None:
        if found["kind"] in controller.WATCHED:
            controller.on_event(event, found, self._runtime)

    async def write_events(self) -> None:
        """Write events until the simulation ends."""
        await self._recorder.run()

    async def reconcile(self) -> None:
        self.queue.due = False
        await controller.reconcile((NAMESPACE, NAME), self._runtime)
        for _ in range(20):  # events are written in the background
            await asyncio.sleep(0)

    def metrics(self) -> list[str]:
        """The nonzero series, except those that depend on the speed of the machine or on the number of requests."""
        left_out = ("#", "resnext_operator_reconcile_", "resnext_operator_api_", "workqueue_", "process_")
        lines = generate_latest(self._metrics.registry).decode().splitlines()
        kept = [line for line in lines if not line.startswith(left_out)]
        kept = [line for line in kept if "_bucket{" not in line and "_created" not in line]
        return [line for line in kept if not line.endswith(" 0.0")]


class Simulation:
    """The operations that a scenario can perform, and the transcript of their effects."""

    def __init__(self, environment: Mapping[str, str] | None = None, **spec: Any) -> None:
        self.clock = Clock()
        self.server = ApiServer(self.clock)
        self.operator = Operator(self.server, self.clock, environment or {})
        self.steps: list[Manifest] = []
        self._body = resource(**spec)
        self._path = self._path_of(self._body["apiVersion"], "resnexttrainings", NAME)
        self._shown: Manifest = {}
        self._counts: dict[str, int] = {}
        self._phases: list[str] = []
        self._runner = asyncio.Runner()
        self._patches = ExitStack()

    def __enter__(self) -> "Simulation":
        self._patches.enter_context(Operator.time_of(self.clock))
        self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        self._patches.close()

    async def _start(self) -> None:
        self._events = asyncio.create_task(self.operator.write_events())

    # -- the transcript --------------------------------------------------------------------------------------------

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Record the effects of the block, and the operator's response, as one step of the transcript."""
        yield
        self.settle()
        before, status = self._shown, copy.deepcopy(self.status)
        self._shown = status
        entry: Manifest = {"at": f"{self.clock.offset:g} s", "what": what}
        if actions := self.server.log:
            entry["objects"], self.server.log = actions, []
        if events := self._new_events():
            entry["events"] = events
        if changed := self._changed_conditions(before, status):
            entry["conditions"] = changed
        if phases := self._phases:
            entry["phases"], self._phases = " -> ".join(phases), []
        entry |= {"columns": self.columns()}
        self.steps.append(entry)

    def transcript(self) -> Manifest:
        """All steps, followed by the final status, the metrics and the remaining objects."""
        left = sorted(
            f"{each['kind']} {each['metadata']['name']}" for each in self.server.objects.values() if "kind" in each
        )
        return {"steps": self.steps, "status": self.status, "metrics": self.operator.metrics(), "objects": left}

    def _new_events(self) -> list[str]:
        new = []
        for path, event in self.server.objects.items():
            if "/events/" in path and event["count"] != self._counts.get(path):
                times = f" (x{event['count']})" if event["count"] > 1 else ""
                new.append(f"{event['type']} {event['reason']}: {event['message']}{times}")
                self._counts[path] = event["count"]
        return new

    @staticmethod
    def _changed_conditions(before: Manifest, after: Manifest) -> list[str]:
        old = {each["type"]: each for each in before.get("conditions", ())}
        shown = ("status", "reason", "message")
        return [
            f"{each['type']}={each['status']} {each['reason']}: {each['message']}"
            for each in after.get("conditions", ())
            if any(each.get(key) != old.get(each["type"], {}).get(key) for key in shown)
        ]

    def columns(self) -> str:
        """The output of `kubectl get -o wide` without the column AGE, which depends on the current time."""
        if self._path not in self.server.objects:
            return "NotFound"
        printed = {each["name"]: self._printed(each["jsonPath"]) for each in columns() if each["type"] != "date"}
        return ", ".join(f"{name.upper()} {value}" for name, value in printed.items() if value != "")

    def _printed(self, path: str) -> Any:
        found: Any = self.server.objects[self._path]
        for part in path.strip(".").split("."):
            name, last, _ = part.partition("[-1:]")
            found = (found or {}).get(name)
            if last:
                found = found[-1] if found else None
        return "" if found is None else found

    # -- the operator ----------------------------------------------------------------------------------------------

    @property
    def status(self) -> Manifest:
        """The stored status."""
        found: Manifest = (self.server.objects.get(self._path) or {}).get("status") or {}
        return found

    def settle(self) -> None:
        """Reconcile until the queue is empty; the simulated kubelets terminate deleted pods."""
        for _ in range(50):
            self.server.deliver()
            if self.operator.queue.due:
                before = self.status.get("phase")
                self._runner.run(self.operator.reconcile())
                if (phase := self.status.get("phase")) != before and phase:
                    self._phases.append(phase)
            elif not self._end_deleted_pods():
                return
        raise AssertionError(f"the reconciliation does not converge after 50 iterations: {self.status}")

    def wait(self, seconds: float) -> None:
        """Advance the clock by some seconds; reconcile at each requeue time."""
        queue, end = self.operator.queue, self.clock.time + timedelta(seconds=seconds)
        self.settle()
        while queue.again and queue.again <= end:
            self.clock.time, queue.again = max(self.clock.time, queue.again), None
            queue.due = True
            self.settle()
        self.clock.time = end

    def resync(self) -> None:
        """Simulate the periodic resync."""
        self.operator.queue.due = True
        self.settle()

    # -- the user --------------------------------------------------------------------------------------------------

    def apply(self, *, dataset: bool = True) -> None:
        """Create the training and, before it, the claim with its dataset."""
        if dataset:
            self.claim("digits-data", "ReadWriteMany")
        self.server.store(self._path, self._body)

    def change(self, **spec: Any) -> None:
        """Replace fields of the spec."""
        found = self.server.objects[self._path]
        metadata = found["metadata"] | {"generation": found["metadata"]["generation"] + 1}
        self.server.store(self._path, found | {"metadata": metadata, "spec": found["spec"] | spec})

    def change_pods(self, **spec: Any) -> None:
        """Suspend the training, replace pod settings and resume it, all before the operator reconciles.

        The API server rejects changes to pod settings while spec.suspend is false.
        """
        self.change(suspend=True)
        self.change(**spec, suspend=False)

    def claim(self, name: str, *modes: str) -> None:
        """Create a claim as a user."""
        self.put("v1", "PersistentVolumeClaim", "persistentvolumeclaims", name, spec={"accessModes": list(modes)})

    def put(self, version: str, kind: str, plural: str, name: str, **parts: Any) -> None:
        """Create an object that the operator does not own."""
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **parts}
        self.server.store(self._path_of(version, plural, name), body)

    def delete(self, *, foreground: bool = False) -> None:
        """Delete the training; the garbage collector then deletes the objects that it owns."""
        found = self.server.objects[self._path]
        if foreground:
            self.server.store(
                self._path, found | {"metadata": found["metadata"] | {"deletionTimestamp": stamp(self.clock.time)}}
            )
            return
        self.server.delete_object(self._path)
        for path, each in list(self.server.objects.items()):
            if any(owner.get("uid") == UID for owner in each["metadata"].get("ownerReferences", ())):
                self.server.delete_object(path)

    # -- the kubelet and the scheduler -----------------------------------------------------------------------------

    @staticmethod
    def _path_of(version: str, plural: str, name: str) -> str:
        return f"/{'apis' if '/' in version else 'api'}/{version}/namespaces/{NAMESPACE}/{plural}/{name}"

    def pods(self, role: str = "") -> list[str]:
        """Names of the pods, by their role: worker or launcher."""
        found = [path.rpartition("/")[2] for path in self.server.objects if "/pods/" in path]
        return [name for name in found if f"-{role}" in name]

    def pod(self, name: str, status: Manifest, node: str = "") -> None:
        """Set the status of a pod and, if given, its node."""
        path = self._path_of("v1", "pods", name)
        found = self.server.objects[path]
        spec = found["spec"] | ({"nodeName": node} if node else {})
        self.server.store(path, found | {"spec": spec, "status": status})

    def lose(self, name: str) -> None:
        """Remove a pod immediately, as a force deletion or the loss of its node does."""
        self.server.delete_object(self._path_of("v1", "pods", name))

    def delete_secret(self) -> None:
        """Delete the Secret with the SSH keys; no watch event follows, because the operator does not watch Secrets."""
        self.server.delete_object(next(path for path in self.server.objects if "/secrets/" in path))

    def ready(self, role: str = "") -> None:
        """Assign every pod of the role without a status to a node, and make it ready."""
        for number, name in enumerate(self.pods(role)):
            found = self.server.objects[self._path_of("v1", "pods", name)]
            if not found.get("status") and not found["spec"].get("schedulingGates"):
                conditions = [{"type": "Ready", "status": "True"}]
                status = {"phase": "Running", "podIP": f"10.0.0.{number + 1}", "conditions": conditions}
                self.pod(name, status, f"node-{number}")

    def run(self, step: int = 20, **known: Any) -> None:
        """Make all pods ready, start the launcher, and let the ranks report a step."""
        self.settle()
        self.wait(5)
        self.ready()
        self.settle()
        self.wait(5)
        self.ready()
        self.wait(20)
        self.train(step, **known)
        self.settle()

    def unschedulable(self, name: str, message: str) -> None:
        """Report that the scheduler finds no node for a pod."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": stamp(self.clock.time),
        }
        self.pod(name, {"phase": "Pending", "conditions": [condition]})

    def end(self, name: str, code: int, message: str = "", reason: str = "") -> None:
        """Terminate the container of a pod; `message` is its termination message."""
        ended = {"exitCode": code, "message": message, "finishedAt": stamp(self.clock.time), "reason": reason}
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"state": {"terminated": ended}}]}
        self.pod(name, status)

    def launcher_ends(self, code: int, message: str | None = "because", **report: Any) -> None:
        """Terminate the launcher of the current attempt, with or without a termination report."""
        termination_message = (
            "" if message is None else json.dumps({"verdict": "of the exit code", "message": message, **report})
        )
        self.end(self.pods("launcher")[-1], code, termination_message)

    def _end_deleted_pods(self) -> bool:
        """Terminate deleted pods. A launcher first reports a saved checkpoint; all other pods report nothing."""
        going = [each for each in self.server.objects.values() if each.get("kind") == "Pod"]
        going = [each for each in going if "deletionTimestamp" in each["metadata"]]
        for each in going:
            name = each["metadata"]["name"]
            if name in self.pods("launcher") and (each.get("status") or {}).get("phase") == "Running":
                self.end(
                    name,
                    75,
                    json.dumps({"verdict": "stopped", "message": "stopped as requested; the checkpoint is saved"}),
                )
            self.lose(name)
        return bool(going)

    # -- the ranks -------------------------------------------------------------------------------------------------

    def train(self, step: int, saved: int | None = None, differences: tuple[str, ...] = (), **known: Any) -> None:
        """Report that the ranks of the current attempt completed `step` and saved a checkpoint at step `saved`."""
        answer: Manifest = {
            "attempt": self.status["attempts"][-1]["number"],
            "epoch": step * EPOCHS / STEPS,
            "epochs": EPOCHS,
            "step": step,
            "steps": STEPS,
            "imagesPerSecond": 640.0,
            "loss": 0.5,
            **known,
        }
        if saved:
            where = {"step": saved, "time": stamp(self.clock.time), "path": f"/checkpoints/step-{saved:08d}"}
            answer["checkpoint"] = where | {"differences": list(differences)}
        self.operator.reported.progress = Progress.model_validate(answer)
        self.operator.queue.due = True
