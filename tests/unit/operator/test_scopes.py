"""The operator process against an API server in memory: a failing namespace or kind stops no other."""

import asyncio
import logging
import signal
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
from kubernetes.aio.config import kube_config

from resnext_operator.runtime import app, scopes
from resnext_operator.runtime.settings import Settings
from tests.support.fake_api import ApiServer
from tests.support.fake_cluster import resource

CONFIG = "/api/v1/namespaces/{}/configmaps/{}-config"


def training(namespace, name="flowers", **content):
    """A training without a dataset, so that nothing keeps its pods from being created."""
    body = resource(dataset=None, training={"data": {"format": "synthetic"}}, workers={"replicas": 1})
    return {"kind": body["kind"], "metadata": {"namespace": namespace, "name": name}, "spec": body["spec"], **content}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(scopes, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(scopes, "_LAST_DELAY", 0.2)
    monkeypatch.setattr(scopes, "_LAST_DELAY_LEFT", 0.2)
    logging.getLogger("kopf").setLevel(logging.CRITICAL)


class Operator:
    """The process, and what it serves."""

    def __init__(self, port, task):
        self.port, self.task = port, task

    async def get(self, path):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def until(self, holds, what, seconds=20):
        for _ in range(int(seconds / 0.05)):
            assert not self.task.done(), "the operator ended"
            if holds():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {what}")

    async def ready(self):
        for _ in range(400):
            try:
                if (await self.get("/readyz"))[0] == 200:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
        raise AssertionError("never ready")


@asynccontextmanager
async def operator(server, folder, monkeypatch, namespaces, **settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with server.serve(folder) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        given = {"namespaces": namespaces, "port": port, "lease_namespace": "system", "relist_seconds": 60.0}
        server.namespaces.add("system")
        task = asyncio.create_task(app.run(Settings(**{**given, **settings})))
        try:
            yield Operator(port, task)
        finally:
            task.cancel()
            await asyncio.wait((task,))


def test_missing_namespace_is_retried_and_others_served(tmp_path, monkeypatch, caplog):
    """A namespace that answers 403 is logged once, and served when it exists."""
    caplog.set_level(logging.INFO, "resnext_operator")

    async def scenario():
        server = ApiServer("one")
        server.put(training("one"))
        async with operator(server, tmp_path, monkeypatch, ("one", "gone")) as it:
            await it.ready()
            await it.until(lambda: CONFIG.format("one", "flowers") in server.objects, "the training in one")
            refused = len(server.refusals)
            await it.until(lambda: len(server.refusals) > refused + 10, "tries in the other namespace")
            server.put(training("one", "trees"))
            await it.until(lambda: CONFIG.format("one", "trees") in server.objects, "an event of the watch in one")
            lines = [each.getMessage() for each in caplog.records if "gone" in each.getMessage()]
            assert len(lines) == 1, lines
            assert "is left alone until it can be read" in lines[0]
            server.namespaces.add("gone")
            server.put(training("gone"))
            await it.until(lambda: CONFIG.format("gone", "flowers") in server.objects, "the namespace that came")
            server.put(training("gone", "late"))
            await it.until(lambda: CONFIG.format("gone", "late") in server.objects, "an event of the watch there")

    asyncio.run(scenario())


def test_namespace_deleted_while_watched_is_dropped(tmp_path, monkeypatch, caplog):
    """Other watches and the process continue."""
    caplog.set_level(logging.INFO, "resnext_operator")

    async def scenario():
        server = ApiServer("one", "two")
        server.put(training("one"))
        server.put(training("two"))
        async with operator(server, tmp_path, monkeypatch, ("one", "two")) as it:
            for namespace in ("one", "two"):
                await it.until(lambda name=namespace: CONFIG.format(name, "flowers") in server.objects, namespace)
                await it.until(lambda name=namespace: server.watches.get((name, "pods")), "a watch")
            server.namespaces.discard("two")
            server.objects = {path: each for path, each in server.objects.items() if "/two/" not in path}
            server.end_watches("two")
            await it.until(lambda: any("namespace two is left" in each.getMessage() for each in caplog.records), "left")
            server.put(training("one", "trees"))
            await it.until(lambda: CONFIG.format("one", "trees") in server.objects, "an event in one")
            _, text = await it.get("/metrics")
            assert 'resnext_trainings{phase="Pending"} 2.0' in text, "those of one alone"
            server.namespaces.add("two")
            server.put(training("two", "again"))
            await it.until(lambda: CONFIG.format("two", "again") in server.objects, "the namespace that came again")

    asyncio.run(scenario())


def test_closed_watches_are_restarted(tmp_path, monkeypatch):
    """No event is missed when a watch connection closes."""

    async def scenario():
        server = ApiServer("one")
        async with operator(server, tmp_path, monkeypatch, ("one",)) as it:
            await it.until(lambda: server.watches.get(("one", "resnexttrainings")), "a watch")
            server.end_watches()
            server.put(training("one"))
            await it.until(lambda: CONFIG.format("one", "flowers") in server.objects, "the training")

    asyncio.run(scenario())


def test_kind_that_cannot_be_listed_blocks_its_namespace(tmp_path, monkeypatch):
    """Nothing is reconciled there before all kinds are listed."""

    async def scenario():
        server = ApiServer("one")
        server.put(training("one"))
        server.failing.add("networkpolicies")
        async with operator(server, tmp_path, monkeypatch, ("one", "gone")) as it:
            await it.ready()
            await asyncio.sleep(0.5)
            assert not server.of("one", "configmaps")
            server.failing.clear()
            await it.until(lambda: CONFIG.format("one", "flowers") in server.objects, "the training")

    asyncio.run(scenario())


def test_malformed_status_blocks_no_other_training(tmp_path, monkeypatch):
    """A status nested 5,000 levels deep ends no list or watch and is replaced."""

    def deep(levels):
        status = {}
        for _ in range(levels):
            status = {"x": status}
        return status

    async def scenario():
        server = ApiServer("one")
        server.put(training("one", "deep", status=deep(2000)))
        server.put(training("one", "odd", status={"phase": ["x"], "conditions": "x", "attempts": [{}], "progress": 3}))
        server.put(training("one", "trees"))
        async with operator(server, tmp_path, monkeypatch, ("one",)) as it:
            for name in ("deep", "odd", "trees"):
                await it.until(lambda name=name: CONFIG.format("one", name) in server.objects, name)
            await it.until(lambda: server.watches.get(("one", "resnexttrainings")), "a watch")
            server.put(training("one", "late", status=deep(2000)))
            server.put(training("one", "last"))
            for name in ("late", "last"):
                await it.until(lambda name=name: CONFIG.format("one", name) in server.objects, name)

            def clean():
                statuses = [each.get("status", {}) for each in server.of("one", "resnexttrainings")]
                return all(status.get("phase") == "Pending" and "x" not in status for status in statuses)

            await it.until(clean, "all statuses rewritten")
            assert (await it.get("/metrics"))[0] == 200

    asyncio.run(scenario())


def test_sigterm_exits_with_0_and_releases_lease(tmp_path, monkeypatch):
    """All watches end within seconds."""

    async def scenario():
        server = ApiServer("one")
        async with operator(server, tmp_path, monkeypatch, ("one", "gone")) as it:
            await it.until(lambda: server.watches.get(("one", "pods")), "a watch")
            await it.until(lambda: server.of("system", "leases"), "a lease")
            signal.raise_signal(signal.SIGTERM)
            assert await asyncio.wait_for(it.task, 10) == 0
            assert server.of("system", "leases")[0]["spec"]["holderIdentity"] == ""

    asyncio.run(scenario())
