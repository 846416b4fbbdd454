"""Requests and reconciliations in the life of a training, against an API server in memory."""

import asyncio
from collections import Counter
from typing import Any

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.rendering import names
from resnext_operator.runtime import app, controller
from resnext_operator.runtime.client import path_of
from resnext_trainer.contract import ExitStatus, TerminationReport
from tests.support.fake_client import Server
from tests.support.fake_cluster import resource
from tests.support.runtime import Recorder, runtime_on

KEY = ("default", "flowers")
TTL = {"ttlSecondsAfterFinished": 3600}
COMPLETED = TerminationReport(verdict=ExitStatus.COMPLETED.name.lower(), message="trained to its end")


class CountingServer(Server):
    """Counts requests by verb and resource."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    async def request(self, verb: str, path: str, *arguments: Any, **options: Any) -> Manifest:
        parts = path.split("/namespaces/")[1].split("/")
        dry = " (dry run)" if ("dryRun", "All") in options.get("query", ()) else ""
        self.requests[f"{verb} {'/'.join([parts[1], *parts[3:]])}{dry}"] += 1
        await asyncio.sleep(0)
        return await super().request(verb, path, *arguments, **options)


class Life:
    """A training whose pods run and end when the test says so."""

    def __init__(self, replicas: int = 4, **spec: Any) -> None:
        self.server = CountingServer()
        self.runtime = runtime_on(self.server)
        self.reconciled = 0
        body = resource(
            dataset=None, workers={"replicas": replicas}, training={"data": {"format": "synthetic"}}, **spec
        )
        body["metadata"] |= {"name": KEY[1], "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
        self.path = path_of(KIND, *KEY)
        self.server.objects[self.path] = body
        self.event("ADDED", self.path)

    def event(self, kind: str, path: str, body: Manifest | None = None) -> None:
        """Report an object as the watch does."""
        body = body or self.server.objects[path]
        controller.on_event(kind, {**body, "metadata": {"namespace": KEY[0], **body["metadata"]}}, self.runtime)

    def paths(self, part: str) -> list[str]:
        return [path for path in self.server.objects if part in path]

    def change(self, path: str, **content: Any) -> None:
        """Change an object as the kubelet or a user does."""
        self.server.version += 1
        body = self.server.objects[path]
        metadata = {**body["metadata"], **content.get("metadata", {}), "resourceVersion": str(self.server.version)}
        self.server.objects[path] = {**body, **content, "metadata": metadata}
        self.event("MODIFIED", path)

    async def work(self) -> None:
        """Reconcile until the queue is empty."""
        queue = self.runtime.queue
        while len(queue):
            key = await queue.get()
            await controller.reconcile(key, self.runtime)
            self.reconciled += 1
            queue.done(key)
            await asyncio.sleep(0.001)

    def run_workers(self, *, ready: bool = True) -> None:
        for path in self.paths("/pods/flowers-worker"):
            conditions = [{"type": "Ready", "status": str(ready)}]
            self.change(path, status={"phase": "Running", "conditions": conditions, "podIP": "10.0.0.1"})

    async def start(self) -> None:
        """Run until the launcher exists."""
        await self.work()
        self.run_workers()
        await self.work()

    @property
    def events(self) -> list[str]:
        """Reasons of the recorded events."""
        recorder = self.runtime.recorder
        assert isinstance(recorder, Recorder)
        return recorder.reasons

    async def finish(self) -> None:
        """The launcher reports that the training is complete, and the kubelet deletes the workers."""
        (launcher,) = self.paths("/pods/flowers-launcher")
        ended = {"exitCode": 0, "reason": "Completed", "message": COMPLETED.model_dump_json(by_alias=True)}
        self.change(launcher, status={"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": ended}}]})
        workers = {path: self.server.objects[path] for path in self.paths("/pods/flowers-worker")}
        await self.work()
        assert not self.paths("/pods/flowers-worker")
        for path, pod in workers.items():
            self.event("DELETED", path, pod)
        await self.work()


class TestRequests:
    def test_life_of_training_needs_no_further_request(self) -> None:
        """Two dry runs, one status patch per transition, and one write per object."""

        async def scenario() -> Life:
            life = Life(replicas=4)
            await life.start()
            await life.finish()
            return life

        life = asyncio.run(scenario())
        assert life.server.objects[life.path]["status"]["phase"] == "Succeeded"
        assert life.server.requests == {
            "POST pods (dry run)": 2,
            "GET resourcequotas": 1,
            "POST secrets": 1,
            "POST configmaps": 1,
            "POST networkpolicies": 1,
            "POST persistentvolumeclaims": 1,
            "POST pods": 5,
            "PATCH resnexttrainings/status": 3,
            "DELETE pods": 4,
        }
        assert life.reconciled <= 8

    def test_trainings_of_one_claim_share_the_dry_run(self) -> None:
        """They differ only in checkpoints.subPath, which the dry run does not need to cover."""

        async def scenario() -> list[str]:
            life = Life(checkpoints={"claimName": "shared", "subPath": "a"})
            life.event("ADDED", "", {"kind": "PersistentVolumeClaim", "metadata": {"name": "shared"}})
            await life.work()
            other = life.server.objects[life.path]
            path = path_of(KIND, KEY[0], "other")
            life.server.objects[path] = {
                **other,
                "metadata": {**other["metadata"], "name": "other", "uid": "other"},
                "spec": {**other["spec"], "checkpoints": {"claimName": "shared", "subPath": "b"}},
                "status": {},
            }
            life.event("ADDED", path)
            await life.work()
            assert life.paths("/pods/other-worker")
            return life.server.dry_runs

        assert len(asyncio.run(scenario())) == 2

    def test_simultaneous_trainings_share_the_lookup_of_quotas(self) -> None:
        """Those that wait for the dry run of the first one find its result."""

        async def scenario() -> Counter[str]:
            life = Life()
            training = life.runtime.reader.read(life.server.objects[life.path])
            await asyncio.gather(*(life.runtime.admission.check(training) for _ in range(20)))
            return life.server.requests

        assert asyncio.run(scenario()) == {"POST pods (dry run)": 2, "GET resourcequotas": 1}


class TestEvents:
    def test_workers_ready_at_once_are_one_event(self) -> None:
        """WorkersRunning says what the operator waits for; if the launcher starts at once, it waits for nothing."""

        async def scenario(ready: bool) -> list[str]:
            life = Life()
            await life.work()
            if not ready:
                life.run_workers(ready=False)
                await life.work()
            life.run_workers()
            await life.work()
            return life.events

        assert asyncio.run(scenario(True)) == ["Accepted", "LauncherCreated"]
        assert asyncio.run(scenario(False)) == ["Accepted", "WorkersRunning", "LauncherCreated"]

    def test_event_without_change_reconciles_nothing(self) -> None:
        """The watch reports the operator's own writes again, and changes to fields that no decision reads."""

        async def scenario() -> None:
            life = Life()
            await life.start()
            done = life.reconciled
            for path in [life.path, *life.paths("/pods/"), *life.paths("configmaps"), *life.paths("networkpolicies")]:
                life.event("MODIFIED", path)
                life.change(path, unused=["a field that no decision reads"])
            await life.work()
            assert life.reconciled == done

        asyncio.run(scenario())

    def test_own_write_reconciles_again(self) -> None:
        """The event of the write changes nothing any more, so the write itself queues the training."""

        async def scenario() -> tuple[int, int]:
            life = Life()
            await life.start()
            (config,) = life.paths("configmaps")
            life.event("DELETED", config, life.server.objects.pop(config))
            done, patches = life.reconciled, len(life.server.patches)
            await life.work()
            assert life.paths("configmaps") == [config]
            return life.reconciled - done, len(life.server.patches) - patches

        assert asyncio.run(scenario()) == (2, 0)

    def test_event_with_change_reconciles_once(self) -> None:
        """Each field that the cache keeps may matter: spec, status, labels, deletion."""

        async def scenario() -> None:
            life = Life()
            await life.start()
            (pod, *_) = life.paths("/pods/flowers-worker")
            body = life.server.objects[pod]
            metadata = body["metadata"]
            changes: list[tuple[str, Manifest]] = [
                (pod, {"status": {**body["status"], "podIP": "10.0.0.2"}}),
                (pod, {"metadata": {**metadata, "labels": {**metadata["labels"], names.REVISION: ""}}}),
                (pod, {"metadata": {**metadata, "ownerReferences": []}}),
                (life.path, {"spec": {**life.server.objects[life.path]["spec"], "suspend": False}}),
            ]
            for path, change in changes:
                life.change(path, **change)
                assert len(life.runtime.queue) == 1, change
                await life.runtime.queue.get()
                life.runtime.queue.done(KEY)
                await asyncio.sleep(0.001)
            life.event("DELETED", pod)
            life.event("DELETED", life.path)
            assert len(life.runtime.queue) == 1

        asyncio.run(scenario())


class TestResync:
    def test_resync_skips_ended_training_without_work(self) -> None:
        """1,000 ended trainings cost nothing until an event."""

        async def scenario() -> list[int]:
            life, found = Life(), []
            runtime = life.runtime

            async def resync() -> int:
                task = asyncio.create_task(app._resync(runtime))
                await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.wait((task,))
                queued = len(runtime.queue)
                await life.work()
                return queued

            await life.start()
            found.append(await resync())
            await life.finish()
            found.append(await resync())
            (launcher,) = life.paths("/pods/flowers-launcher")
            life.event("DELETED", launcher)
            await life.work()
            found.append(await resync())
            life.change(life.path, spec={**life.server.objects[life.path]["spec"], "ttlSecondsAfterFinished": None})
            await life.work()
            found.append(await resync())
            return found

        assert asyncio.run(scenario()) == [1, 0, 0, 0]

    def test_resync_repeats_failed_cleanup(self) -> None:
        """An ended training is queued as long as its pods or its TTL need another reconciliation."""

        async def scenario() -> None:
            life = Life()
            await life.start()
            await life.finish()
            assert life.runtime.settled == {KEY}
            life.change(life.path, spec={**life.server.objects[life.path]["spec"], "runPolicy": TTL})
            await life.work()
            assert life.runtime.settled == set()
            life = Life(runPolicy=TTL)
            await life.start()
            await life.finish()
            assert life.runtime.settled == set()

        asyncio.run(scenario())
