"""Fake of the operator's client with objects in memory."""

import copy
from collections.abc import Sequence
from typing import Any

from resnext_operator.api.objects import Manifest
from resnext_operator.runtime.client import ApiError, KubeClient
from tests.support.merge_patch import merge_patch


class Server(KubeClient):
    """POST, GET, PUT, DELETE and merge patches of a status, in memory; records every write."""

    def __init__(self) -> None:
        self.objects: dict[str, Manifest] = {}
        self.writes: list[tuple[str, str]] = []
        self.patches: list[tuple[str, str, Any]] = []
        self.version = 0
        self.dry_runs: list[str] = []
        """Names of the pods in dry runs."""
        self.quotas: list[Manifest] = []
        self.quota_looks = 0
        self.refusals: dict[str, ApiError] = {}
        """Errors of dry runs, by the pod's role."""
        self.refused_pods: dict[str, ApiError] = {}
        """Errors of creations, by the object's name."""

    async def request(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: str = "",  # noqa: ARG002
        seconds: float = 0,  # noqa: ARG002
    ) -> Manifest:
        if ("dryRun", "All") in query:
            self.dry_runs.append(body["metadata"]["name"])
            if refused := self.refusals.get(body["metadata"]["labels"]["resnext.dev/role"]):
                raise refused
            return dict(body)
        if path.endswith("/resourcequotas"):
            self.quota_looks += 1
            return {"items": self.quotas}
        if verb != "GET":
            self.writes.append((verb, path))
        if verb == "PATCH":
            self.patches.append((verb, path, body))
        if verb == "POST":
            if refused := self.refused_pods.get(body["metadata"]["name"]):
                raise refused
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ApiError(409, "already exists")
            body = {**body, "metadata": {**body["metadata"], "uid": f"uid-{path}"}}
        elif (found := self.objects.get(path.removesuffix("/status"))) is None:
            raise ApiError(404, "not found")
        elif verb == "PUT":
            body = {**body, "metadata": {**body["metadata"], "uid": found["metadata"]["uid"]}}
        elif verb == "PATCH":
            path = path.removesuffix("/status")
            if "status" in body:
                body = {**found, "status": merge_patch(found.get("status", {}), body["status"])}
            else:
                body = {**found, "spec": {**found["spec"], "schedulingGates": []}}
        elif verb == "DELETE":
            return self.objects.pop(path)
        else:
            return found
        self.version += 1
        body["metadata"] = {**body["metadata"], "resourceVersion": str(self.version)}
        self.objects[path] = body
        return copy.deepcopy(body)
