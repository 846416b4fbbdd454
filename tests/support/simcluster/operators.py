"""Runs operators as processes on this machine that can be killed."""

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from resnext_operator.cli import main
from resnext_operator.rendering import names
from resnext_trainer.contract import Progress
from tests.support.simcluster.api import RELEASE, Api, Manifest
from tests.support.simcluster.kwok_nodes import own_address, trains
from tests.support.simcluster.proxy import Fault, Proxy, kubeconfig

# Forked from a process that has imported everything: starts in 0.1 s instead of 2.5 s.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["__main__", "resnext_operator.runtime.app", "resnext_operator.cli"])

_MAX_STARTS = 5

QUICK = {"RESYNC_SECONDS": "0.5", "RELIST_SECONDS": "2", "PROGRESS_POLL_INTERVAL_SECONDS": "0.3"}
"""Short intervals, so that tests need not wait."""


def _main(environment: Mapping[str, str], log: str, metrics_port: int) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # The operator rejects the RESNEXT_ variables of `make` and of the tests.
    for name in [name for name in os.environ if name.startswith("RESNEXT_")]:
        del os.environ[name]
    os.environ.update(environment)
    # All pods have the address of this machine, where a real rank may use the default port.
    names.METRICS_PORT = metrics_port
    sys.exit(main(["run"]))


@dataclass
class Operator:
    """Successive operators with the same identity and proxy. A killed operator is restarted immediately."""

    proxy: Proxy
    metrics_port: int
    environment: Mapping[str, str]
    log: Path
    starts: int = 0
    _process: Any = None
    _stopping: bool = False

    def start(self) -> None:
        self.starts += 1
        self._process = _FORKED.Process(
            target=_main, args=(self.environment, str(self.log), self.metrics_port), daemon=True
        )
        self._process.start()

    def kill(self) -> None:
        """Send SIGKILL, so that the operator cannot clean up."""
        self._process.kill()

    async def keep(self) -> None:
        """Restart the operator whenever it exits, up to a limit."""
        while not self._stopping and self.starts < _MAX_STARTS:
            await asyncio.to_thread(self._process.join)
            if not self._stopping:
                self.proxy.revive()
                self.start()

    async def stop(self) -> None:
        """Kill the operator and do not restart it."""
        self._stopping = True
        self.kill()
        await asyncio.to_thread(self._process.join)


@asynccontextmanager
async def operator(
    api: Api,
    token: str,
    ranks: "Ranks",
    *,
    namespaces: str = "",
    lease: tuple[str, str],
    fault: Fault | None = None,
    at_write: int = 0,
    settings: Mapping[str, str] = QUICK,
) -> AsyncIterator[Operator]:
    """An operator behind a proxy. lease: its namespace and name."""
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(api.where, fault, at_write)
        async with proxy.serve():
            config = Path(folder) / "kubeconfig"
            config.write_text(json.dumps(kubeconfig(proxy.url, token)))
            environment = {
                "KUBECONFIG": str(config),
                "RESNEXT_IDENTITY": "played",
                "RESNEXT_NAMESPACES": namespaces,
                "RESNEXT_LEASE_NAMESPACE": lease[0],
                "RESNEXT_LEASE_NAME": lease[1],
                # An ephemeral port.
                "RESNEXT_PORT": "0",
                **{f"RESNEXT_{name}": value for name, value in settings.items()},
            }
            it = Operator(proxy, ranks.port, environment, Path(folder) / "log")
            proxy.kill = it.kill
            it.start()
            keeping = asyncio.create_task(it.keep())
            try:
                yield it
            finally:
                await it.stop()
                await keeping


@dataclass
class Ranks:
    """Serves /progress for all simulated pods, which have the address of this machine."""

    progress: Progress = field(default_factory=lambda: trains(1))
    requests: int = 0
    port: int = 0

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator["Ranks"]:
        async def answer(_: web.Request) -> web.Response:
            self.requests += 1
            return web.Response(text=self.progress.model_dump_json(by_alias=True), content_type="application/json")

        app = web.Application()
        app.add_routes([web.get("/progress", answer)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        # Only at the pods' address: a test may serve other responses at another address of this machine.
        await web.TCPSite(runner, own_address(), port).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


def lease_rbac(namespace: str, name: str) -> list[Manifest]:
    """The chart's Role and RoleBinding for leader election, with another Lease."""
    rules = [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [name],
            "verbs": ["get", "update"],
        },
    ]
    common = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name, "namespace": namespace}}
    subject = {"kind": "ServiceAccount", "name": RELEASE, "namespace": "resnext-system"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    return [
        {**common, "kind": "Role", "rules": rules},
        {**common, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]},
    ]
