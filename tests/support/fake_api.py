"""A fake API server over HTTP with the discovery, lists, watches and writes that the operator needs.

Requests for a namespace that does not exist return 403, like those for a namespace whose Role was deleted with it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.runtime.client import PATHS
from tests.support.merge_patch import merge_patch

# kopf waits for these resources before it watches.
_OF_KOPF = {
    "Namespace": ("api/v1", "namespaces"),
    "CustomResourceDefinition": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
}
_PREFIXES = {prefix for prefix, _ in [*PATHS.values(), *_OF_KOPF.values()]}
_KINDS = {plural: kind for kind, (_, plural) in PATHS.items()}


class ApiServer:
    """Stores objects by path, and records every write and rejection."""

    def __init__(self, *namespaces: str) -> None:
        self.namespaces = set(namespaces)
        self.objects: dict[str, Manifest] = {}
        self.version = 100
        self.writes: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self.requests: list[tuple[str, str]] = []
        """Verb and path of every request; the verbs of collections are LIST, WATCH and POST."""
        self.discovery = 200
        """Status code of the discovery of the trainings' API group; 404 if the CRD is not installed."""
        self.broken: set[str] = set()
        """Names of objects whose creation fails with a server error."""
        self.slow: dict[str, float] = {}
        """Seconds before a response to a POST, by namespace."""
        self.watches: dict[tuple[str, str], list[asyncio.Queue[Manifest | None]]] = {}
        self.failing: set[str] = set()
        """Plurals of resources whose lists fail with a server error."""
        self._runner: web.AppRunner | None = None

    @asynccontextmanager
    async def serve(self, folder: Path) -> AsyncIterator[Path]:
        """Start the server; returns the path of a kubeconfig."""
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/api", self._versions)
        app.router.add_get("/apis", self._groups)
        for prefix in _PREFIXES:
            app.router.add_get(f"/{prefix}", self._resources)
            app.router.add_route("*", f"/{prefix}/namespaces/{{namespace}}/{{plural}}", self._collection)
            app.router.add_route("*", f"/{prefix}/namespaces/{{namespace}}/{{plural}}/{{name}}", self._object)
            app.router.add_route("*", f"/{prefix}/namespaces/{{namespace}}/{{plural}}/{{name}}/status", self._object)
        self._runner = runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
            "users": [{"name": "test", "user": {"token": "x"}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        try:
            yield path
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Stop answering requests."""
        self.end_watches()
        if self._runner:
            await self._runner.cleanup()

    def end_watches(self, namespace: str | None = None) -> None:
        """Close the connections of watches, as the API server does periodically."""
        for (where, _), queues in self.watches.items():
            for queue in queues if namespace in (None, where) else ():
                queue.put_nowait(None)

    def put(self, body: Manifest, event: str | None = None, *, notify: bool = True) -> Manifest:
        """Store an object and notify the watches.

        notify: False for a watch that has broken unnoticed.
        """
        self.version += 1
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        prefix, plural = PATHS[body["kind"]]
        path = f"/{prefix}/namespaces/{namespace}/{plural}/{name}"
        metadata = {
            "uid": f"uid-{name}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **body["metadata"],
            "resourceVersion": str(self.version),
        }
        event = event or ("MODIFIED" if path in self.objects else "ADDED")
        self.objects[path] = {"apiVersion": prefix.partition("/")[2], **body, "metadata": metadata}
        for queue in self.watches.get((namespace, plural), ()) if notify else ():
            queue.put_nowait({"type": event, "object": self.objects[path]})
        return self.objects[path]

    def of(self, namespace: str, plural: str) -> list[Manifest]:
        return [each for path, each in self.objects.items() if f"/namespaces/{namespace}/{plural}/" in path]

    @web.middleware
    async def _note(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        verb = request.method
        if verb == "GET" and "plural" in request.match_info and "name" not in request.match_info:
            verb = "WATCH" if request.query.get("watch") else "LIST"
        self.requests.append((verb, request.path))
        if verb == "POST":
            await asyncio.sleep(self.slow.get(request.match_info.get("namespace", ""), 0.0))
        return await handler(request)

    async def _versions(self, _: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1"]})

    async def _groups(self, _: web.Request) -> web.Response:
        groups = [prefix.split("/")[1:] for prefix in _PREFIXES if "apis/" in prefix]
        versions = [(name, {"groupVersion": f"{name}/{version}", "version": version}) for name, version in groups]
        found = [{"name": name, "versions": [each], "preferredVersion": each} for name, each in versions]
        return web.json_response({"groups": found})

    async def _resources(self, request: web.Request) -> web.Response:
        if self.discovery != 200 and request.path == f"/{PATHS[KIND][0]}":
            return _status(self.discovery, "no such group")
        verbs = ["list", "watch", "get", "create", "patch", "delete"]
        found = [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": kind in PATHS, "verbs": verbs}
            for kind, (prefix, plural) in {**PATHS, **_OF_KOPF}.items()
            if f"/{prefix}" == request.path
        ]
        return web.json_response({"resources": found})

    def _refused(self, request: web.Request) -> web.Response | None:
        namespace = request.match_info["namespace"]
        if namespace in self.namespaces:
            return None
        self.refusals.append(request.path)
        return _status(403, f"forbidden in namespace {namespace}")

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        if refused := self._refused(request):
            return refused
        namespace, plural = request.match_info["namespace"], request.match_info["plural"]
        if request.method == "POST":
            body = await request.json()
            if request.query.get("dryRun"):
                return web.json_response(body, status=201)
            path = f"{request.path}/{body['metadata']['name']}"
            self.writes.append(("POST", path))
            if body["metadata"]["name"] in self.broken:
                return _status(500, f"cannot create {body['metadata']['name']}")
            if path in self.objects:
                return _status(409, "already exists")
            body["metadata"].setdefault("namespace", namespace)
            return web.json_response(self.put({"kind": _KINDS[plural], **body}), status=201)
        if plural in self.failing:
            return _status(500, f"cannot list {plural}")
        if request.query.get("watch"):
            return await self._watch(request, namespace, plural)
        metadata = {"resourceVersion": str(self.version)}
        return web.json_response({"metadata": metadata, "items": self.of(namespace, plural)})

    async def _watch(self, request: web.Request, namespace: str, plural: str) -> web.StreamResponse:
        queue: asyncio.Queue[Manifest | None] = asyncio.Queue()
        since = int(request.query.get("resourceVersion", 0))
        for missed in self.of(namespace, plural):
            if int(missed["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "ADDED", "object": missed})
        self.watches.setdefault((namespace, plural), []).append(queue)
        stream = web.StreamResponse()
        try:
            with suppress(ConnectionResetError):  # the client has ended; aiohttp would log it as an error
                await stream.prepare(request)
                while (event := await queue.get()) is not None:
                    await stream.write(json.dumps(event).encode() + b"\n")
        finally:
            self.watches[namespace, plural].remove(queue)
        return stream

    async def _object(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        path = request.path.removesuffix("/status")
        if request.method != "GET":
            self.writes.append((request.method, request.path))
        if (found := self.objects.get(path)) is None:
            return _status(404, "not found")
        body = await request.json() if request.method in ("PUT", "PATCH", "DELETE") and request.can_read_body else {}
        if request.method == "PATCH":
            return web.json_response(self.put({**found, "status": merge_patch(found.get("status"), body["status"])}))
        if request.method == "PUT":
            stored = found["metadata"]["resourceVersion"]
            if body["metadata"].get("resourceVersion", stored) != stored:
                return _status(409, "outdated")
            return web.json_response(self.put({"kind": found["kind"], **body}))
        if request.method == "DELETE":
            return web.json_response(self.objects.pop(path))
        return web.json_response(found)


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message, "reason": "x"}, status=code)
