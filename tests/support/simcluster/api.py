"""Administrator access to the API server of the cluster."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import kopf

from resnext_operator.api.groupversion import GROUP, PLURAL, VERSION
from resnext_operator.runtime.client import ApiError, KubeClient, open_session
from resnext_operator.runtime.credentials import login

ROOT = Path(__file__).parents[3]
SYSTEM, RELEASE = "resnext-system", "resnext-operator"
Manifest = dict[str, Any]
TRAININGS = f"/apis/{GROUP}/{VERSION}"


def setup(*arguments: str) -> str:
    """The output of an hack/devenv command: a path or an image reference."""
    command = [sys.executable, str(ROOT / "hack" / "devenv"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def image(name: str) -> str:
    """Reference of an image: RESNEXT_IMAGE_{OPERATOR,TRAINER,MONITORING}, or that of the local build."""
    return os.environ.get(f"RESNEXT_IMAGE_{name.partition('-')[0].upper()}") or setup("image-ref", name)


def image_values() -> tuple[str, ...]:
    """helm's flags for the images, which the chart requires."""
    return "--set", f"image={image('operator')}", "--set", f"trainerImage={image('trainer-cpu')}"


def kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or setup("kubeconfig")


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run kubectl or helm; returns its output."""
    environment = {**os.environ, "KUBECONFIG": kubeconfig()}
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


class Api(KubeClient):
    """Requests by path."""

    def __init__(self, session: aiohttp.ClientSession, where: kopf.ConnectionInfo) -> None:
        super().__init__(session, where.server, where.as_http_headers, lambda *_: None)
        self.where = where

    async def find(self, path: str) -> Manifest | None:
        try:
            return await self.request("GET", path)
        except ApiError as refused:
            if refused.code != 404:
                raise
        return None

    async def items(self, path: str, selector: str = "") -> list[Manifest]:
        found = await self.request("GET", path, query=[("labelSelector", selector)] if selector else [], seconds=60)
        items: list[Manifest] = found["items"]
        return items

    async def watch(self, path: str, accept: str) -> AsyncIterator[Manifest]:
        """Events from the beginning, in the requested representation. A watch that ends is resumed."""
        version, headers = "0", {"Accept": accept, **self.where.as_http_headers()}
        while True:
            query, unlimited = {"watch": "true", "resourceVersion": version}, aiohttp.ClientTimeout(total=None)
            with suppress(aiohttp.ClientError):
                async with self._session.get(
                    self.where.server + path, params=query, headers=headers, timeout=unlimited
                ) as answer:
                    answer.raise_for_status()
                    async for line in answer.content:
                        event = json.loads(line)
                        version = event["object"]["metadata"]["resourceVersion"]
                        yield event
            await asyncio.sleep(0.1)

    async def remove(self, path: str, *, at_once: bool = False) -> None:
        """Delete an object that may not exist. at_once: like --force of kubectl."""
        with suppress(ApiError):
            await self.request("DELETE", path, {"gracePeriodSeconds": 0} if at_once else None)

    async def merge(self, path: str, patch: Manifest) -> Manifest:
        return await self.request("PATCH", path, patch, content="application/merge-patch+json")

    async def token(self) -> str:
        """Token of the operator's service account, so that its RBAC rules apply."""
        path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{RELEASE}/token"
        made = await self.request("POST", path, {"spec": {"expirationSeconds": 7200}})
        return str(made["status"]["token"])


@asynccontextmanager
async def connect() -> AsyncIterator[Api]:
    with patch.dict(os.environ, KUBECONFIG=kubeconfig()):
        where = login()
    async with open_session(where, connections=100) as session:
        yield Api(session, where)


def deploy(replicas: int) -> None:
    """Install this repository's chart with a number of replicas; other values are reused."""
    chart = ROOT / "charts" / RELEASE
    # `kubectl scale` makes another field manager own the field.
    installed = RELEASE in run("helm", "list", "--namespace", SYSTEM, "--short").split()
    images = () if installed else image_values()
    values = ("--reset-then-reuse-values", *images, f"--set=replicas={replicas}", "--force-conflicts")
    run("helm", "upgrade", "--install", RELEASE, chart, "--namespace", SYSTEM, "--create-namespace", *values)
    run("kubectl", "wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=60s")
    if replicas:
        run("kubectl", "-n", SYSTEM, "rollout", "status", f"deployment/{RELEASE}", "--timeout=120s")
    else:
        run("kubectl", "-n", SYSTEM, "wait", "--for=delete", "pods", "--all", "--timeout=60s")


def deployed() -> int:
    """Number of the operator's replicas in the cluster."""
    try:
        found = run("kubectl", "-n", SYSTEM, "get", "deployment", RELEASE, "--output=json")
    except RuntimeError:
        return 0
    return int(json.loads(found)["spec"]["replicas"])
