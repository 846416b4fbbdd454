"""Proxy between an operator and the API server that records calls and injects a fault into one write."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import kopf
from aiohttp import web

from tests.support.simcluster.api import Manifest

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)
_HOP_BY_HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length"}
_ASIDE = {"leases", "events"}


@dataclass(frozen=True)
class Call:
    """One request with its response."""

    method: str
    path: str
    watch: bool
    code: int
    at: float
    """Time of the monotonic clock."""
    sent: bytes = b""
    got: bytes = b""
    dry_run: bool = False

    @property
    def _parts(self) -> dict[str, str]:
        found = _PATH.fullmatch(self.path)
        return {key: value or "" for key, value in found.groupdict().items()} if found else {}

    @property
    def resource(self) -> str:
        """Resource, for example `pods` or `resnexttrainings/status`; empty if the path is not a resource."""
        parts = self._parts
        return "/".join(filter(None, (parts.get("resource"), parts.get("part"))))

    @property
    def group(self) -> str:
        return self._parts.get("group", "")

    @property
    def name(self) -> str:
        return self._parts.get("name", "")

    @property
    def verb(self) -> str:
        """Verb as in RBAC rules."""
        one = bool(self.name)
        return {
            "GET": "get" if one else "watch" if self.watch else "list",
            "POST": "create",
            "PUT": "update",
            "PATCH": "patch",
            "DELETE": "delete" if one else "deletecollection",
        }[self.method]

    @property
    def is_write(self) -> bool:
        """Whether the call is a write, except for the Lease and Events."""
        return self.method != "GET" and not self.dry_run and self.resource not in _ASIDE

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.name} -> {self.code}".replace("  ", " ")


class Fault(StrEnum):
    """A fault injected into one write. The write itself is carried out in every case."""

    KILLED_AFTER = "killed after the answer"
    KILLED_BEFORE = "killed before the answer"
    LOST = "answer lost"
    TWICE = "sent twice"
    """Sent twice, as by a retrying proxy. The operator gets the second response, for creations a conflict."""


@dataclass
class Proxy:
    """The calls of an operator, across restarts."""

    where: kopf.ConnectionInfo
    """Address and certificates of the API server."""
    fault: Fault | None = None
    at_write: int = 0
    """Number of the write at which the fault is injected, from 1; 0 means every write."""
    kill: Callable[[], None] = lambda: None
    calls: list[Call] = field(default_factory=list)
    url: str = ""
    injected: bool = False
    leads: float | None = None
    """When the current operator acquired the Lease, by the monotonic clock."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _dead: bool = False

    @property
    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.is_write]

    def revive(self) -> None:
        """Reset the state for the next operator."""
        self._dead, self.leads = False, None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Proxy"]:
        connector = aiohttp.TCPConnector(ssl=self.where.as_ssl_context(), limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{path:.*}", self._pass)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") in ("true", "1")
        seen = Call(request.method, request.path, watch, 0, time.monotonic(), dry_run=_is_dry_run(request))
        if seen.is_write or (self.fault is Fault.TWICE and seen.resource == "events"):
            # Serialized, because the operator writes concurrently, and write N must be the same in each run.
            async with self._turn:
                return await self._write(request)
        return await self._forward(request, watch)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        if self._dead:
            return _cut_connection(request)
        number = len(self.writes) + 1
        fault = self.fault if self.at_write in (0, number) and not (self.injected and self.at_write) else None
        if fault is None:
            return await self._forward(request, False)
        self.injected = True
        if fault is Fault.TWICE:
            await self._request_upstream(request)
            return await self._forward(request, False)
        if fault is Fault.KILLED_AFTER:
            answered = await self._forward(request, False)
            # Time for the operator to read the response and to reach the next write.
            await asyncio.sleep(0.02)
            self._kill()
            return answered
        await self._request_upstream(request)
        if fault is Fault.KILLED_BEFORE:
            self._kill()
        return _cut_connection(request)

    def _kill(self) -> None:
        self._dead, self.leads = True, None
        self.kill()

    async def _request_upstream(self, request: web.Request) -> tuple[aiohttp.ClientResponse, bytes]:
        """Pass a request on to the API server, read its whole answer and record the call."""
        body = await request.read()
        async with self._session.request(
            request.method,
            self.where.server + request.raw_path,
            headers=_end_to_end(request.headers) | _READABLE,
            data=body or None,
        ) as answer:
            got = await answer.read()
        self._note(request, answer.status, False, body, got)
        return answer, got

    async def _forward(self, request: web.Request, watch: bool) -> web.StreamResponse:
        if not watch:
            answer, got = await self._request_upstream(request)
            response = web.Response(status=answer.status, headers=_end_to_end(answer.headers), body=got)
            await response.prepare(request)
            await response.write_eof()
            return response
        async with self._session.get(
            self.where.server + request.raw_path, headers=_end_to_end(request.headers)
        ) as stream:
            self._note(request, stream.status, True)
            passed = web.StreamResponse(status=stream.status, headers=_end_to_end(stream.headers))
            await passed.prepare(request)
            async for chunk in stream.content.iter_any():
                await passed.write(chunk)
            await passed.write_eof()
            return passed

    def _note(self, request: web.Request, code: int, watch: bool, sent: bytes = b"", got: bytes = b"") -> None:
        write = request.method != "GET"
        kept = (sent, got) if write else (b"", b"")
        call = Call(request.method, request.path, watch, code, time.monotonic(), *kept, _is_dry_run(request))
        self.calls.append(call)
        if write and call.resource == "leases" and code < 300 and not self._dead:
            self.leads = self.leads or call.at


def _is_dry_run(request: web.Request) -> bool:
    return request.query.get("dryRun") == "All"


_READABLE = {"Accept-Encoding": "identity"}


def _end_to_end(headers: Any) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() not in _HOP_BY_HOP}


def _cut_connection(request: web.Request) -> web.Response:
    """Close the connection without a response."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def kubeconfig(url: str, token: str) -> Manifest:
    """A kubeconfig for clients of the proxy."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "proxy", "user": {"token": token}}],
    }
