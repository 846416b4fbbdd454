"""Runs the operator in the event loop of a test, with the API server of `fake_api`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from resnext_operator.api.objects import Manifest
from resnext_operator.runtime import app
from resnext_operator.runtime.settings import Settings
from tests.support.fake_api import ApiServer
from tests.support.fake_cluster import resource
from tests.support.processes import free_port

LEASES = "system"
"""Namespace of the Lease."""


def training(namespace: str, name: str = "flowers", **content: Any) -> Manifest:
    """A training without a dataset, so that its pods are created immediately."""
    body = resource(dataset=None, training={"data": {"format": "synthetic"}}, workers={"replicas": 1})
    return {"kind": body["kind"], "metadata": {"namespace": namespace, "name": name}, "spec": body["spec"], **content}


def config_map(namespace: str, name: str = "flowers") -> str:
    """Path of a training's ConfigMap, which the operator creates first."""
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}-config"


class Operator:
    """The operator and its HTTP endpoints."""

    def __init__(self, server: ApiServer, port: int, task: "asyncio.Task[int]") -> None:
        self.server, self.port, self.task = server, port, task

    async def get(self, path: str) -> tuple[int, str]:
        """Status code and text of a response; the status code is 0 if nothing listens."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def metric(self, name: str) -> float | None:
        """The value of a series without labels; None if there is none."""
        families = text_string_to_metric_families((await self.get("/metrics"))[1])
        return next((each.value for family in families for each in family.samples if each.name == name), None)

    async def until(self, holds: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait until a condition holds; fails if the operator exits first."""
        for _ in range(int(seconds / 0.02)):
            assert not self.task.done(), "the operator exited"
            if holds():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}")

    async def serves(self, namespace: str, name: str = "flowers") -> None:
        """Wait until the operator has created the ConfigMap of a training."""
        path = config_map(namespace, name)
        await self.until(lambda: path in self.server.objects, f"the training {namespace}/{name}")

    async def answers(self, path: str, status: int = 200) -> None:
        """Wait until a path returns this status code."""
        for _ in range(3000):
            if (await self.get(path))[0] == status:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path} did not return {status}")

    async def ready(self) -> None:
        await self.answers("/readyz")

    async def exit_code(self, seconds: float = 10) -> int:
        """The exit code, once the process has ended."""
        return await asyncio.wait_for(asyncio.shield(self.task), seconds)


@asynccontextmanager
async def operator(
    server: ApiServer, folder: Path, monkeypatch: pytest.MonkeyPatch, namespaces: tuple[str, ...], **settings: Any
) -> AsyncIterator[Operator]:
    """Run the operator until the end of the test. folder: directory for the kubeconfig."""
    port = free_port()
    async with server.serve(folder) as config:
        monkeypatch.setenv("KUBECONFIG", str(config))
        given = {"namespaces": namespaces, "port": port, "lease_namespace": LEASES, "relist_seconds": 60.0}
        server.namespaces.add(LEASES)
        task = asyncio.create_task(app.run(Settings(**{**given, **settings})))
        try:
            yield Operator(server, port, task)
        finally:
            task.cancel()
            await asyncio.wait((task,))
