"""Soak test: ordinary trainings next to a tenant with malformed objects, and the operator's resource usage."""

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile
from random import Random
from statistics import median
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from resnext_operator.runtime.client import ApiError
from tests.support.simcluster import odd_objects as odd
from tests.support.simcluster.api import TRAININGS, Api, Manifest
from tests.support.simcluster.environment import Environment
from tests.support.simcluster.kwok_nodes import SIMULATED, clear, namespace_with_claim, own_address, training
from tests.support.simcluster.operators import lease_rbac
from tests.support.simcluster.process import Process, process

_NEXT_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:")
LANES = 3
"""Number of concurrent ordinary trainings."""
_ACTIONS_PER_SECOND = 8.0
_TO_SUCCEED = 120.0  # Seconds; about 5 s on an idle machine.
_TO_CLEAR = 180.0
_MAX_GROWTH = 1.15
_MAX_LINES_PER_SECOND = 20.0
_MAX_LEFTOVERS = 10
"""Maximum growth of the caches and queues, in entries, after all objects are deleted."""


@dataclass(frozen=True)
class Sample:
    """Resource usage of the operator at one time."""

    memory: float
    """Resident memory in MB."""
    descriptors: int
    series: int
    queued: float

    def __str__(self) -> str:
        return f"{self.memory:.1f} MB, {self.descriptors} descriptors, {self.series} series, {self.queued:.0f} queued"


@dataclass
class Outcome:
    """Outcome of a run."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    """Seconds until each ordinary training Succeeded."""
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    """Number of requests by action and status code."""
    answers: int = 0
    """Number of responses of the odd ranks to GET /progress."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes of the operator's caches and queues before anything was created."""
    left: dict[str, int] = field(default_factory=dict)
    """Sizes after everything was deleted."""
    log: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Reasons for the test to fail."""
        found = list(self.faults)
        if not self.took:
            found.append("no ordinary training succeeded")
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        for what in ("memory", "descriptors", "series") if third else ():
            before, after = (median(getattr(each, what) for each in part) for part in (middle, last))
            if after > _MAX_GROWTH * before:
                found.append(f"{what}: {after:.1f} in the last third of the time, {before:.1f} in the middle third")
        if len(self.log) > _MAX_LINES_PER_SECOND * self.seconds:
            found.append(f"the operator logged {len(self.log)} lines in {self.seconds:.0f} s")
        for error, count in tracebacks(self.log).items():
            found.append(f"the operator logged {count} times:\n{error}")
        for what, size in self.left.items():
            if size > self.sizes.get(what, 0) + _MAX_LEFTOVERS:
                found.append(
                    f"{what} holds {size} entries after all objects are deleted, {self.sizes.get(what, 0)} before"
                )
        return found

    def __str__(self) -> str:
        memory = [each.memory for each in self.samples] or [0.0]
        sixth = max(1, len(memory) // 6)
        course = ", ".join(f"{median(memory[first : first + sixth]):.0f}" for first in range(0, len(memory), sixth))
        return (
            f"{len(self.took)} ordinary trainings succeeded in {median(self.took or [0.0]):.0f} s each (median; "
            f"maximum {max(self.took, default=0.0):.0f} s), next to {self.actions.total()} odd requests and "
            f"{self.answers} odd responses in {self.seconds:.0f} s; resident memory {min(memory):.0f} to "
            f"{max(memory):.0f} MB (median of each sixth: {course}), at the end "
            f"{self.samples[-1] if self.samples else 'unknown'}; "
            f"{len(self.log)} lines logged"
        )


def tracebacks(log: list[str]) -> Counter[str]:
    """Number of occurrences of each traceback, without the preceding log line, whose names and delays differ."""
    found: Counter[str] = Counter()
    lines = iter(log)
    for line in lines:
        if line.lstrip(" |+-").startswith("Traceback"):
            inner = takewhile(lambda each: not _NEXT_RECORD.match(each), lines)
            found["\n".join([line, *islice(inner, 60)])] += 1
    return found


async def soak(environment: Environment, seed: int, seconds: float) -> Outcome:
    """Run, then delete everything. With an odd seed the operator watches named namespaces, otherwise all."""
    api, outcome = environment.api, Outcome()
    tenant, plain = (f"soak-{os.getpid()}-{what}" for what in ("odd", "plain"))
    spare = tenant + odd.SPARE
    async with AsyncExitStack() as stack:
        for namespace in (plain, tenant):
            await namespace_with_claim(api, namespace, odd.CLAIM)
            stack.push_async_callback(_clear, api, namespace, outcome)
        stack.push_async_callback(_clear, api, spare, outcome)
        roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{plain}/"
        for each in lease_rbac(plain, "leader"):
            await api.request("POST", f"{roles}{each['kind'].lower()}s", each)
        address = own_address(await _address_of_a_node(api))
        if address != own_address():
            await stack.enter_async_context(_odd_ranks(address, environment.ranks.port, seed, outcome))
        watched = ",".join((tenant, plain, spare)) if seed % 2 else ""
        it = await stack.enter_async_context(
            process(api, environment.ranks, lease=(plain, "leader"), namespaces=watched)
        )
        outcome.sizes = await it.sizes()
        began = time.monotonic()
        end = began + seconds
        odd_tenant = asyncio.create_task(_run_odd_tenant(api, seed, tenant, address, end, outcome))
        lanes = [asyncio.create_task(_train(api, plain, lane, end, outcome)) for lane in range(LANES)]
        watcher = asyncio.create_task(_observe(it, max(1.0, seconds / 300), outcome))
        try:
            # Do not wait for an operator that has exited or hangs.
            workload: asyncio.Future[Any] = asyncio.gather(odd_tenant, *lanes)
            pending: list[asyncio.Future[Any]] = [workload, watcher]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if not watcher.done():
                await workload
                outcome.seconds = time.monotonic() - began
                await asyncio.gather(*(_delete_all(api, namespace) for namespace in (tenant, plain, spare)))
                await _until_empty(it, outcome)
        finally:
            for task in (odd_tenant, watcher, *lanes):
                task.cancel()
            await asyncio.wait({odd_tenant, watcher, *lanes})
            outcome.seconds = outcome.seconds or time.monotonic() - began
            outcome.log = it.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return outcome


async def _run_odd_tenant(api: Api, seed: int, namespace: str, address: str, end: float, outcome: Outcome) -> None:
    for action in odd.actions(seed, namespace):
        if time.monotonic() > end:
            return
        action = odd.addressed(action, address)
        try:
            await api.request(action.method, action.path, action.body, content=action.content, seconds=20)
            code = "2xx"
        except ApiError as refused:
            code = str(refused.code)
            if action.valid and refused.code in (400, 422):
                outcome.faults.append(f"{action.what}: {refused}: {json.dumps(action.body)[:2000]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            code = type(error).__name__
        outcome.actions[f"{action.what}: {code}"] += 1
        await asyncio.sleep(1 / _ACTIONS_PER_SECOND)


async def _train(api: Api, namespace: str, lane: int, end: float, outcome: Outcome) -> None:
    """Ordinary trainings, one after the other."""
    trainings = f"{TRAININGS}/namespaces/{namespace}/resnexttrainings"
    number = 0
    while time.monotonic() < end:
        number += 1
        name = f"plain-{lane}-{number}"
        manifest = training(name, last_attempt=1, seconds=2)
        manifest["spec"]["checkpoints"] = {"claimName": odd.CLAIM, "subPath": name}
        await api.request("POST", trainings, manifest, seconds=60)
        began = time.monotonic()
        status: Manifest = {}
        while status.get("phase") not in ("Succeeded", "Failed") and time.monotonic() < began + _TO_SUCCEED:
            await asyncio.sleep(0.5)
            status = ((await api.find(f"{trainings}/{name}")) or {}).get("status") or {}
        took = time.monotonic() - began
        if status.get("phase") != "Succeeded" or len(status.get("attempts") or ()) != 1:
            outcome.faults.append(f"{name} after {took:.0f} s: {json.dumps(status)}")
        else:
            outcome.took.append(took)
        await api.remove(f"{trainings}/{name}")


async def _observe(it: Process, pause: float, outcome: Outcome) -> None:
    """Sample the operator periodically until the process exits."""
    while it.process.returncode is None:
        try:
            text = await it.exposition()
            metrics = {
                (each.name, *each.labels.values()): each.value
                for family in text_string_to_metric_families(text)
                for each in family.samples
            }
            queued = metrics[("workqueue_depth", "resnexttraining")]
            outcome.samples.append(Sample(it.memory(), it.descriptors(), len(metrics), queued))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            # Each of these lines is a fault.
            fault = f"/metrics: {type(error).__name__}: {error}"
            if fault not in outcome.faults:
                outcome.faults.append(fault)
        except (FileNotFoundError, ProcessLookupError):
            break
        with suppress(TimeoutError):
            await asyncio.wait_for(it.process.wait(), pause)
    outcome.faults.append(f"the operator ended with exit code {it.process.returncode}")


async def _until_empty(it: Process, outcome: Outcome) -> None:
    """Wait until the queue is empty, no training is counted, and the caches have their initial size."""
    deadline = time.monotonic() + _TO_CLEAR
    while True:
        outcome.left = await it.sizes()
        phases, queued = await it.phases(), (await it.metrics())['workqueue_depth{name="resnexttraining"}']
        grown = any(size > outcome.sizes.get(what, 0) + _MAX_LEFTOVERS for what, size in outcome.left.items())
        if not (grown or queued or any(phases.values())):
            return
        if time.monotonic() > deadline:
            if queued or any(phases.values()):
                outcome.faults.append(
                    f"{queued:.0f} keys are queued and trainings counted after all are deleted: {phases}"
                )
            return
        await asyncio.sleep(3)


async def _delete_all(api: Api, namespace: str) -> None:
    """Delete all trainings and pods; the garbage collector deletes the rest."""
    deadline = time.monotonic() + _TO_CLEAR
    while time.monotonic() < deadline:
        kinds = (f"{TRAININGS}/namespaces/{namespace}/resnexttrainings", f"/api/v1/namespaces/{namespace}/pods")
        found = [f"{path}/{each['metadata']['name']}" for path in kinds for each in await api.items(path)]
        if not found:
            return
        await asyncio.gather(*(api.remove(each) for each in found))
        await asyncio.sleep(2)


async def _clear(api: Api, namespace: str, outcome: Outcome) -> None:
    try:
        await asyncio.wait_for(clear(api, namespace), _TO_CLEAR)
    except TimeoutError:
        outcome.faults.append(f"namespace {namespace} is not deleted within {_TO_CLEAR:.0f} s")


# -- ranks -------------------------------------------------------------------------------------------------------------


async def _address_of_a_node(api: Api) -> str:
    """This machine's address on the network of the real nodes."""
    addresses: list[str] = [
        address["address"]
        for each in await api.items("/api/v1/nodes", f"!{SIMULATED}")
        for address in each["status"].get("addresses", ())
        if address["type"] == "InternalIP"
    ]
    return addresses[0]


@asynccontextmanager
async def _odd_ranks(address: str, port: int, seed: int, outcome: Outcome) -> AsyncIterator[None]:
    """Serve malformed responses to GET /progress at this address."""
    random = Random(seed)
    open_: set[asyncio.Task[None]] = set()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        open_.add(task)
        outcome.answers += 1
        part, pause, times = odd.answer(random)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await reader.readuntil(b"\r\n\r\n")
                for _ in range(times):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
        finally:
            open_.discard(task)
            writer.close()

    server = await asyncio.start_server(reply, address, port)
    try:
        yield
    finally:
        server.close()
        for task in open_:
            task.cancel()
