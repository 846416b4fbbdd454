"""Scenarios of a training's lifecycle, and the outcome of a run, which is compared between runs."""

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from resnext_operator.rendering import names
from tests.support.simcluster.api import TRAININGS, Api, Manifest
from tests.support.simcluster.environment import Environment
from tests.support.simcluster.kwok_nodes import SAVED, SIMULATED, training, volume
from tests.support.simcluster.operators import Operator, lease_rbac
from tests.support.simcluster.proxy import Call, Fault

NAME = "it"
KINDS = {
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "persistentvolumeclaims": "/api/v1",
    "secrets": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}


@dataclass(frozen=True)
class TrainingScenario:
    """One training in its own namespace."""

    api: Api
    namespace: str

    @property
    def path(self) -> str:
        return f"{TRAININGS}/namespaces/{self.namespace}/resnexttrainings/{NAME}"

    async def create(self, **how: Any) -> None:
        await self.api.request("POST", self.path.removesuffix(f"/{NAME}"), training(NAME, **how))

    async def change(self, **spec: Any) -> None:
        await self.api.merge(self.path, {"spec": spec})

    async def status(self) -> Manifest:
        found = await self.api.find(self.path)
        return (found or {}).get("status") or {}

    async def until(self, seen: Callable[[], Awaitable[Any]], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not await seen():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} was not seen within {seconds:g} s: {await self.status()}")
            await asyncio.sleep(0.05)

    async def phase(self, *wanted: str) -> None:
        async def seen() -> bool:
            return (await self.status()).get("phase") in wanted

        await self.until(seen, f"phase {' or '.join(wanted)}")

    async def trains(self) -> None:
        """Wait until the training runs and its checkpoint is in the status."""

        async def seen() -> bool:
            status = await self.status()
            return status.get("phase") == "Running" and (status.get("checkpoint") or {}).get("step") == SAVED.step

        await self.until(seen, "a training that runs")

    async def children(self) -> dict[str, list[Manifest]]:
        path = f"/namespaces/{self.namespace}/"
        selector = f"{names.TRAINING}={NAME}"
        found = await asyncio.gather(*(self.api.items(f"{root}{path}{kind}", selector) for kind, root in KINDS.items()))
        # Secrets have the label as well. Unlike the operator, an administrator may list them.
        return dict(zip(KINDS, found, strict=True))

    def pod(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{name}"


async def create_to_running(scenario: TrainingScenario) -> None:
    await scenario.create()
    await scenario.trains()


async def create_to_succeeded(scenario: TrainingScenario) -> None:
    # Long enough for an operator that is killed and restarted in the meantime to poll the progress.
    await scenario.create(last_attempt=1, seconds=4)
    await scenario.phase("Succeeded")


async def suspend_to_resumed(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=2, seconds=0.5)
    await scenario.trains()
    await scenario.change(suspend=True)
    await scenario.phase("Suspended")
    await scenario.change(suspend=False)
    await scenario.phase("Succeeded")


async def worker_lost(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=2, seconds=0.5)
    await scenario.trains()
    await scenario.api.remove(scenario.pod(names.worker(NAME, 1, 0)), at_once=True)
    await scenario.phase("Succeeded")


async def resize(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=2, seconds=0.5)
    await scenario.trains()
    await scenario.change(workers={"replicas": 3})
    await scenario.phase("Succeeded")


async def delete(scenario: TrainingScenario) -> None:
    await scenario.create()
    await scenario.trains()
    await scenario.api.request("DELETE", scenario.path)

    async def children_deleted() -> bool:
        return not any(found for kind, found in (await scenario.children()).items() if kind != "persistentvolumeclaims")

    await scenario.until(children_deleted, "the end of all children")


SCENARIOS = (create_to_succeeded, suspend_to_resumed, worker_lost, resize, delete)
ScenarioSteps = Callable[[TrainingScenario], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run."""

    state: dict[str, Any]
    """Fields of the training and its children that do not differ between runs without faults, by path."""
    touched: Counter[str]
    """Number of creations and deletions of each object."""
    writes: tuple[Call, ...]
    at_rest: tuple[Call, ...]
    """Writes after the end; expected to be empty."""
    starts: int
    injected: bool
    log: str

    def differences(self, clean: "Outcome") -> list[str]:
        found = [f"{call} at rest" for call in self.at_rest]
        for what, mine, its in (("", self.state, clean.state), ("count of ", self.touched, clean.touched)):
            found += [
                f"{what}{key}: {mine.get(key)!r}, and {its.get(key)!r} without a fault"
                for key in sorted(mine.keys() | its.keys())
                if mine.get(key) != its.get(key)
            ]
        return found


async def run_scenario(
    steps: ScenarioSteps, environment: Environment, fault: Fault | None = None, at_write: int = 0
) -> Outcome:
    """Run a scenario with its own operator in its own namespace."""
    async with training_scenario(environment) as scenario:
        lease = (scenario.namespace, "leader")
        how = {"namespaces": scenario.namespace, "lease": lease, "fault": fault, "at_write": at_write}
        async with environment.operator(**how) as it:
            try:
                await steps(scenario)
                written = await wait_until_idle(it)
                state = masked(await _everything(scenario))
            except Exception as error:
                log = it.log.read_text()[-3000:]
                calls = "\n".join(map(str, it.proxy.writes))
                raise AssertionError(
                    f"{steps.__name__}, {fault} at write {at_write}: {error}\n{calls}\n{log}"
                ) from error
            return Outcome(
                state=state,
                touched=_touched(it.proxy.calls),
                writes=tuple(it.proxy.writes),
                at_rest=tuple(it.proxy.writes[written:]),
                starts=it.starts,
                injected=it.proxy.injected,
                log=it.log.read_text()[-6000:],
            )


@asynccontextmanager
async def training_scenario(environment: Environment) -> AsyncIterator[TrainingScenario]:
    api, namespace = environment.api, f"scene-{os.getpid()}-{next(environment.numbers)}"
    paths = {"Role": "roles", "RoleBinding": "rolebindings"}
    await api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace, "labels": {SIMULATED: "true"}}})
    for each in lease_rbac(namespace, "leader"):
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{paths[each['kind']]}"
        await api.request("POST", path, each)
    kept = volume(namespace, NAME)
    await api.request("POST", "/api/v1/persistentvolumes", kept)
    scenario = TrainingScenario(api, namespace)
    # Without it the API server rejects pods, and the operator retries later.
    await scenario.until(
        lambda: api.find(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"), "the service account"
    )
    try:
        yield scenario
    finally:
        await api.remove(f"/api/v1/namespaces/{namespace}")
        await api.remove(f"/api/v1/persistentvolumes/{kept['metadata']['name']}")


async def wait_until_idle(it: Operator) -> int:
    """Wait for the last write, including retries, and then for several resyncs and a relist.

    Waits until a killed operator leads again. Returns the number of writes up to the last one.
    """
    since, deadline = time.monotonic(), time.monotonic() + 60
    while (led := it.proxy.leads) is None or (
        time.monotonic() - max([since, led, *(call.at for call in it.proxy.writes)]) < 1.2
    ):
        assert time.monotonic() < deadline, "there is no leader, or the operator keeps writing"
        await asyncio.sleep(0.05)
    written = len(it.proxy.writes)
    await asyncio.sleep(1.2)
    return written


async def _everything(scenario: TrainingScenario) -> dict[str, Manifest]:
    found = {
        f"{kind}/{each['metadata']['name']}": each
        for kind, all_ in (await scenario.children()).items()
        for each in all_
    }
    if it := await scenario.api.find(scenario.path):
        found["training"] = it
    return found


def _touched(calls: list[Call]) -> Counter[str]:
    """Creations and deletions by name. A repeated deletion, for example a retry of the HTTP client, counts once."""
    done = {
        (call.verb, call.resource, *_identity(call))
        for call in calls
        if call.is_write and call.verb in ("create", "delete") and call.code < 300
    }
    return Counter(f"{verb} {resource}/{name}" for verb, resource, name, _ in done)


def _identity(call: Call) -> tuple[str, str]:
    """Name and uid of the created or deleted object."""
    if call.verb == "create":
        metadata = json.loads(call.got)["metadata"]
        return metadata["name"], metadata["uid"]
    return call.name, json.loads(call.sent)["preconditions"]["uid"]


# Differences between runs without faults: times, uids, versions, hashes that include namespace or uid, the namespace,
# the node that the scheduler chose, and durations.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_NODE = re.compile(r"played-[01]\b")
_NAMESPACE = re.compile(r"scene-\d+-\d+\b")
_UNSTABLE = {
    "managedFields",
    "resourceVersion",
    "uid",
    "namespace",
    "volumeName",
    "creationTimestamp",
    "stepSeconds",
    "goodput",
    "reported",
    names.SPEC_HASH,
}


def masked(found: dict[str, Manifest]) -> dict[str, Any]:
    """Every field of every object by path, except those that differ between runs."""
    uids = {each["metadata"]["uid"]: f"<uid of {key}>" for key, each in found.items()}
    flat: dict[str, Any] = {}
    for key, each in found.items():
        kept: Manifest = {
            part: each[part] for part in ("metadata", "spec", "data", "type", "immutable") if part in each
        }
        if key == "training":
            kept["status"] = each.get("status")
        elif key.startswith("pods/"):
            kept["phase"] = each["status"]["phase"]
        if key.startswith("secrets/"):
            kept["data"] = sorted(each["data"])  # random in each run
        _flatten(key, kept, uids, flat)
    return flat


def _flatten(path: str, value: Any, uids: dict[str, str], flat: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _UNSTABLE:
                _flatten(f"{path}.{key}", inner, uids, flat)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            # Conditions by type, because their order depends on their first appearance.
            name = inner["type"] if isinstance(inner, dict) and "lastTransitionTime" in inner else index
            _flatten(f"{path}[{name}]", inner, uids, flat)
    elif isinstance(value, str):
        text = uids.get(value, value)
        flat[path] = _NAMESPACE.sub("<namespace>", _NODE.sub("<node>", _TIME.sub("<time>", text)))
    else:
        flat[path] = value
