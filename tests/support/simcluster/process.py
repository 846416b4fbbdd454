"""Runs the operator as a process on this machine with default settings, and reads its metrics."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.processes import free_port
from tests.support.simcluster.api import RELEASE, SYSTEM, Api, Manifest
from tests.support.simcluster.operators import Ranks

# The pods have the address of this machine, where a real rank may use the default port.
# On SIGUSR1 the process writes the sizes of the operator's containers: a leak of small entries is visible in the
# resident memory only after hours.
PROGRAM = """
import gc, json, signal, sys
from resnext_operator.rendering import names
from resnext_operator.cli import main

def size(value):
    if isinstance(value, dict):
        return sum(len(each) if isinstance(each, (dict, list, set)) else 1 for each in value.values())
    return value.qsize() if hasattr(value, "qsize") else len(value)

def report(*_):
    found = {}
    for each in gc.get_objects():
        if type(each).__module__ in MODULES and hasattr(each, "__dict__") and not isinstance(each, type):
            for name, value in vars(each).items():
                if isinstance(value, (dict, list, set)) or hasattr(value, "qsize"):
                    key = f"{type(each).__name__}.{name.strip('_')}"
                    found[key] = found.get(key, 0) + size(value)
    with open(sys.argv[1], "w") as output:
        json.dump(found, output)

MODULES = {"resnext_operator.runtime." + each for each in ("cache", "workqueue", "progress_poller", "event_recorder")}
names.METRICS_PORT = int(sys.argv[2])
signal.signal(signal.SIGUSR1, report)
raise SystemExit(main(["run"]))
"""


@dataclass
class Process:
    """The process and its metrics."""

    process: asyncio.subprocess.Process
    url: str
    session: aiohttp.ClientSession
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    async def exposition(self) -> str:
        """The text of /metrics; raises aiohttp.ClientError unless the answer is 200."""
        async with self.session.get(f"{self.url}/metrics") as answer:
            answer.raise_for_status()
            return await answer.text()

    async def metrics(self) -> dict[str, float]:
        text = await self.exposition()
        return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", text, re.M)}

    async def phases(self) -> dict[str, int]:
        found = await self.metrics()
        return {
            key.split('"')[1]: int(value)
            for key, value in found.items()
            if key.startswith("resnext_operator_trainings{")
        }

    async def calls(self) -> Counter[str]:
        """API requests by verb, without the lists and watches of kopf."""
        counted: Counter[str] = Counter()
        for key, value in (await self.metrics()).items():
            if key.startswith("resnext_operator_api_requests_total"):
                (verb,) = re.findall(r'verb="(\w+)"', key)
                counted[verb] += int(value)
        return counted

    def memory(self, what: str = "VmRSS") -> float:
        """Resident memory in MB; with VmHWM, its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        (size,) = re.findall(rf"{what}:\s+(\d+) kB", status)
        return int(size) / 1024

    def seconds(self) -> float:
        """CPU time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Open files and connections."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    async def sizes(self) -> dict[str, int]:
        """Entries in the operator's caches and queues, by class and attribute."""
        path = self.folder / "sizes"
        path.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                found: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
            except (FileNotFoundError, json.JSONDecodeError):
                continue
            return found
        raise RuntimeError("the operator does not report its sizes")


@asynccontextmanager
async def process(
    api: Api, ranks: Ranks, *, lease: tuple[str, str] = (SYSTEM, RELEASE), namespaces: str = ""
) -> AsyncIterator[Process]:
    """Start `resnext-operator run` with the variables of the Deployment, and wait until it is ready.

    lease: namespace and name.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        config, log = folder / "kubeconfig", folder / "log"
        config.write_text(json.dumps(_kubeconfig(api, await api.token())), encoding="utf-8")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RESNEXT_")},
            "KUBECONFIG": str(config),
            "RESNEXT_LEASE_NAMESPACE": lease[0],
            "RESNEXT_LEASE_NAME": lease[1],
            "RESNEXT_NAMESPACES": namespaces,
            "RESNEXT_PORT": str(port),
        }
        # Ends together with this process, even if this process is killed.
        killed = ("setpriv", "--pdeathsig=KILL")
        command = (*killed, sys.executable, "-c", PROGRAM, str(folder / "sizes"), str(ranks.port))
        with log.open("w", encoding="utf-8") as output:
            started = await asyncio.create_subprocess_exec(*command, env=environment, stdout=output, stderr=output)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            it = Process(started, f"http://127.0.0.1:{port}", session, folder)
            try:
                await _ready(it)
                yield it
            finally:
                if started.returncode is None:
                    started.terminate()
                    await started.wait()


def _kubeconfig(api: Api, token: str) -> Manifest:
    cluster: dict[str, Any] = {
        "server": api.where.server,
        "certificate-authority": api.where.ca_path,
        "certificate-authority-data": api.where.ca_data,
    }
    return {
        "current-context": "played",
        "contexts": [{"name": "played", "context": {"cluster": "played", "user": "played"}}],
        "clusters": [{"name": "played", "cluster": cluster}],
        "users": [{"name": "played", "user": {"token": token}}],
    }


async def _ready(it: Process) -> None:
    for _ in range(1200):
        if it.process.returncode is not None:
            raise RuntimeError(f"the operator exited:\n{it.log.read_text(encoding='utf-8')}")
        try:
            async with it.session.get(f"{it.url}/readyz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the operator is not ready:\n{it.log.read_text(encoding='utf-8')}")
