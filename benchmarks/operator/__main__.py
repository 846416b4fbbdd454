"""Speed and resource usage of the operator with many concurrent trainings, whose pods kwok simulates.

    python -m benchmarks.operator [--json FILE] [--small]

Prints a table with figures of the MPI Operator on a similar cluster, and writes it as JSON. The operator runs with
default settings as a process on this machine, with the token of its own service account.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from resnext_operator.runtime.settings import Settings
from tests.support.simcluster.api import TRAININGS, Api, connect, deploy, deployed, run
from tests.support.simcluster.kwok_nodes import clear, kwok_nodes, namespace_with_claim, training, trains
from tests.support.simcluster.operators import Ranks
from tests.support.simcluster.process import Process, process

NAMESPACE, CLAIM = "bench", "checkpoints"
CAP = Settings().max_progress_polls_per_second
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@asynccontextmanager
async def operator(api: Api, ranks: Ranks) -> AsyncIterator[Process]:
    """The operator. Warnings in its log are reported when it ends."""
    async with process(api, ranks) as it:
        try:
            yield it
        finally:
            lines = it.log.read_text().splitlines()
            if troubles := [line for line in lines if " WARNING " in line or "ERROR" in line]:
                print(f"warnings in the operator's log: {len(troubles)}; first:", troubles[0], file=sys.stderr)


# -- watching the cluster ----------------------------------------------------------------------------------------------

COLLECTION = f"{TRAININGS}/namespaces/{NAMESPACE}/resnexttrainings"


@dataclass
class Seen:
    """What the watches of pods and trainings have reported."""

    last: dict[str, float] = field(default_factory=dict)
    """Time of the last created pod of each role."""
    count: Counter[str] = field(default_factory=Counter)
    """Number of created pods of each role."""
    phases: dict[str, str] = field(default_factory=dict)
    """Phase of each training."""

    def role(self, name: str) -> str:
        return "launchers" if "-launcher-" in name else "workers"

    async def until(self, phase: str, count: int, seconds: float) -> float:
        """Wait until this many trainings are in a phase; returns the time.

        Does not scrape the operator, because rendering its metrics takes CPU time that the benchmark would count.
        """
        deadline = time.monotonic() + seconds
        while (found := Counter(self.phases.values()))[phase] < count:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{found[phase]} of {count} trainings are {phase} after {seconds:.0f} s: {dict(found)}"
                )
            await asyncio.sleep(0.1)
        return time.monotonic()


@asynccontextmanager
async def watching(api: Api) -> AsyncIterator[Seen]:
    seen = Seen()

    async def watch_pods() -> None:
        async for event in api.watch(f"/api/v1/namespaces/{NAMESPACE}/pods", METADATA):
            if event["type"] == "ADDED":
                role = seen.role(event["object"]["metadata"]["name"])
                seen.count[role] += 1
                seen.last[role] = time.monotonic()

    async def watch_trainings() -> None:
        async for event in api.watch(COLLECTION, "application/json"):
            found = event["object"]
            seen.phases[found["metadata"]["name"]] = found.get("status", {}).get("phase", "")

    tasks = [asyncio.create_task(watch()) for watch in (watch_pods, watch_trainings)]
    try:
        yield seen
    finally:
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.wait(tasks)


async def create(api: Api, count: int, workers: int, last_attempt: int) -> None:
    turn = asyncio.Semaphore(20)

    async def one(index: int) -> None:
        manifest = training(f"t{index}", replicas=workers, last_attempt=last_attempt)
        manifest["spec"]["checkpoints"] = {"claimName": CLAIM, "subPath": f"t{index}"}
        async with turn:
            await api.request("POST", COLLECTION, manifest, seconds=60)

    await asyncio.gather(*(one(index) for index in range(count)))


# -- measurements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    what: str
    value: float
    unit: str
    goal: float
    peer: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.goal


WRITES = ("POST", "PATCH", "DELETE")
"""Without PUT, which is used only for the Lease if no child object is outdated."""


async def events(api: Api) -> int:
    """Number of events that the operator recorded; the goal for its API calls does not include them."""
    query = [("fieldSelector", "source=resnext-operator")]
    return len((await api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events", query=query, seconds=60))["items"])


async def to_succeeded(api: Api, it: Process, count: int, workers: int) -> dict[str, float]:
    event_count, before, cpu = await events(api), await it.calls(), it.seconds()
    async with watching(api) as seen:
        began = time.monotonic()
        await create(api, count, workers, last_attempt=1)
        created = time.monotonic()
        ended = await seen.until("Succeeded", count, 600)
    expected = {"workers": count * workers, "launchers": count}
    if dict(seen.count) != expected:
        raise RuntimeError(f"{dict(seen.count)} pods created, {expected} expected: some were recreated")
    calls, event_count = await it.calls() - before, await events(api) - event_count
    return {
        "submitted": created - began,
        "workers created": seen.last["workers"] - began,
        "launchers created": seen.last["launchers"] - began,
        "succeeded": ended - began,
        "calls": (sum(calls[verb] for verb in (*WRITES, "GET")) - event_count) / count,
        "events": event_count / count,
        **{f"calls {verb}": calls[verb] / count for verb in (*WRITES, "GET")},
        "cpu": it.seconds() - cpu,
        "memory": it.memory("VmHWM"),
    }


async def rest(it: Process) -> None:
    """Wait until the last event is recorded, the last pod deleted and the last progress reported."""
    before = await it.calls()
    for _ in range(60):
        await asyncio.sleep(5)
        now = await it.calls()
        if not any((now - before)[verb] for verb in WRITES):
            return
        before = now
    raise RuntimeError("the operator still writes after five minutes")


async def at_rest(it: Process, seconds: float) -> dict[str, float]:
    """Measure the idle operator for at least one resync interval."""
    await rest(it)
    before, cpu = await it.calls(), it.seconds()
    await asyncio.sleep(seconds)
    calls = await it.calls() - before
    writes = float(sum(calls[verb] for verb in WRITES))
    return {"writes": writes, "core": (it.seconds() - cpu) / seconds, "memory": it.memory()}


async def under_way(it: Process, ranks: Ranks, seconds: float) -> dict[str, float]:
    """Measure the operator while all trainings progress."""
    before, polls_before, cpu, began = await it.calls(), ranks.requests, it.seconds(), time.monotonic()
    while (step := int(time.monotonic() - began)) < seconds:
        ranks.progress = trains(1, 41 + step)
        await asyncio.sleep(1)
    polls, calls, seconds = ranks.requests - polls_before, await it.calls() - before, time.monotonic() - began
    return {
        "polls": polls / seconds,
        "patches": calls["PATCH"] / seconds,
        "core": (it.seconds() - cpu) / seconds,
        "memory": it.memory(),
    }


async def restart(api: Api, ranks: Ranks, seconds: float) -> dict[str, float]:
    began = time.monotonic()
    async with operator(api, ranks) as it:
        ready = time.monotonic() - began
        await asyncio.sleep(seconds)
        calls = await it.calls()
        return {"ready": ready, "writes": float(sum(calls[verb] for verb in WRITES)), "memory": it.memory()}


async def measure(few: int, many: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(connect())
        ranks = await stack.enter_async_context(Ranks().serve())
        await stack.enter_async_context(kwok_nodes(api, nodes=10))
        while await api.find(f"/api/v1/namespaces/{NAMESPACE}"):
            await asyncio.sleep(1)
        for name, count, workers in (("few", few, 4), ("many", many, 2)):
            await namespace_with_claim(api, NAMESPACE, CLAIM)
            async with operator(api, ranks) as it:
                found[name] = await to_succeeded(api, it, count, workers)
                _print_result(name, found)
                if name == "many":
                    found["finished"] = await at_rest(it, Settings().resync_seconds + 5)
                    _print_result("finished", found)
            await clear(api, NAMESPACE)
        await namespace_with_claim(api, NAMESPACE, CLAIM)
        async with operator(api, ranks) as it:
            async with watching(api) as seen:
                await create(api, many, 2, last_attempt=0)
                await seen.until("Running", many, 600)
            found["running"] = await under_way(it, ranks, 30)
            _print_result("running", found)
            await rest(it)
        # The progress of the ranks does not change, so a restarted operator has nothing to write.
        found["restart"] = await restart(api, ranks, 20)
        await clear(api, NAMESPACE)
    return found


def _print_result(name: str, found: dict[str, dict[str, float]]) -> None:
    """Print a result to standard error."""
    print(name, {key: round(value, 2) for key, value in found[name].items()}, file=sys.stderr, flush=True)


def figures(found: dict[str, dict[str, float]]) -> list[Figure]:
    few, many, finished, running, again = (found[key] for key in ("few", "many", "finished", "running", "restart"))
    created = {key: max(found[key]["workers created"], found[key]["launchers created"]) for key in ("few", "many")}
    return [
        Figure("100 x (1 + 4): all pods created", created["few"], "s", 8, "19 (198 by default)"),
        Figure("100 x (1 + 4): all Succeeded", few["succeeded"], "s", 12, "33 (246 by default)"),
        Figure("100 x (1 + 4): API calls per training, without events", few["calls"], "", 14 + 2 * 4),
        Figure("1,000 x (1 + 2): workers created", many["workers created"], "s", 60, "75"),
        Figure("1,000 x (1 + 2): all pods created", created["many"], "s", 60, "198"),
        Figure("1,000 x (1 + 2): all Succeeded", many["succeeded"], "s", 90, "303"),
        Figure("1,000 x (1 + 2): API calls per training, without events", many["calls"], "", 14 + 2 * 2),
        Figure("1,000 x (1 + 2): CPU", many["cpu"], "s", 71, "71"),
        Figure("1,000 x (1 + 2): peak resident memory", many["memory"], "MB", 200, "198"),
        Figure("1,000 finished: writes in 3 minutes", finished["writes"], "", 0),
        Figure("1,000 finished: share of a core", 100 * finished["core"], "%", 1),
        Figure("1,000 running: polls per second", running["polls"], "", CAP),
        Figure("1,000 running: status patches per second", running["patches"], "", CAP),
        Figure("1,000 running: resident memory", running["memory"], "MB", 200),
        Figure("restart with 1,000 running: ready after", again["ready"], "s", 10),
        Figure("restart with 1,000 running: writes", again["writes"], "", 0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--small", action="store_true", help="run a tenth of the trainings, to test the script itself")
    options = parser.parse_args()
    # Raise KeyboardInterrupt on SIGTERM, so that the simulated nodes are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = deployed()
    deploy(0)
    # Prometheus would scrape thousands of simulated pods.
    prometheus = ("kubectl", "--namespace", "monitoring", "scale", "deployment/prometheus")
    watched = bool(run("kubectl", "--namespace", "monitoring", "get", "deployment", "--output=name"))
    if watched:
        run(*prometheus, "--replicas=0")
    try:
        found = asyncio.run(measure(10, 100) if options.small else measure(100, 1000))
    finally:
        if watched:
            run(*prometheus, "--replicas=1")
        if before:
            deploy(before)
    rows = figures(found)
    table = Table("", "measured", "goal", "MPI Operator", title=None)
    for each in rows:
        mark = "" if each.met else "  (missed)"
        table.add_row(each.what, f"{each.value:.1f} {each.unit}{mark}", f"≤ {each.goal:g} {each.unit}", each.peer)
    Console(width=120).print(table)
    version = json.loads(run("kubectl", "version", "--output=json"))["serverVersion"]["gitVersion"]
    where = {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "machine": platform.platform(),
        "kubernetes": version,
        "python": platform.python_version(),
        "trainings": [10, 100] if options.small else [100, 1000],
    }
    print(json.dumps(where))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"where": where, "figures": [vars(each) | {"met": each.met} for each in rows], "raw": found}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
