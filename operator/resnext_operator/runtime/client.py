"""The API server, as the operator uses it: create, update, delete, patch status, list."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from resnext_operator.api.groupversion import GROUP, KIND, PLURAL, VERSION
from resnext_operator.api.objects import Manifest
from resnext_operator.api.objects.meta import DeleteOptions
from resnext_operator.api.objects.shared import ManagedObject, Secret, SharedObject
from resnext_operator.api.status import Status
from resnext_operator.api.training import Training
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.plan import ObjectRef, Plan
from resnext_operator.rendering import names
from resnext_operator.rendering.hashing import with_spec_hash
from resnext_operator.runtime.cache import prune
from resnext_operator.runtime.cached_objects import CachedObject
from resnext_operator.runtime.guard import Guard
from resnext_operator.runtime.ownership import Owner, owner_of
from resnext_operator.runtime.unstructured import namespace_and_name, owned_by

PATHS = {
    KIND: (f"apis/{GROUP}/{VERSION}", PLURAL),
    "Pod": ("api/v1", "pods"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Secret": ("api/v1", "secrets"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Event": ("api/v1", "events"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
}
_JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"
_STRATEGIC_PATCH = "application/strategic-merge-patch+json"
# Quotas, admission rules and webhooks answer 403 as a rule; 422 and 400 mean that the object itself is invalid.
_REJECTIONS = (400, 403, 422)
_SECONDS = 15.0
_PAGE = 500

_Answer = TypeVar("_Answer")

Count = Callable[[str, str], None]
"""Told the verb and the code of each request; a code of "none" stands for no answer."""


class ApiError(Exception):
    """The API server's no, with its code and its words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    def rejection(self, manifest: ManagedObject) -> Rejection | None:
        """What this says about an object to create; None if it is no verdict on the object."""
        if self.code not in _REJECTIONS:
            return None
        metadata = manifest["metadata"]
        role = metadata["labels"].get(names.ROLE, "")
        return Rejection(manifest["kind"], metadata["name"], role, self.code, self.message)


@dataclass
class Applied:
    """What became of a plan."""

    created: list[Manifest] = field(default_factory=list)
    changed: list[Manifest] = field(default_factory=list)
    """Updated or deleted objects, as the API server's answers show them."""
    rejections: list[Rejection] = field(default_factory=list)
    """Objects that the API server did not create; those after them were not tried."""


class NameStillHeld(Exception):
    """A child's name is still taken by a child of an earlier training of this name; the garbage collector is at it."""


class NameConflict(Exception):
    """A child's name is taken by an object that is not ours; the text names it."""


def describe_error(error: BaseException) -> str:
    """What an error says, or what it is: a TimeoutError says nothing."""
    return str(error) or type(error).__name__


def path_of(kind: str, namespace: str | None, name: str = "", part: str = "") -> str:
    prefix, plural = PATHS[kind]
    within = ("namespaces", namespace) if namespace else ()
    return "/" + "/".join(filter(None, (prefix, *within, plural, name, part)))


class KubeClient:
    """One pool of connections; every answer is a plain dictionary."""

    def __init__(self, client: Any, count: Count) -> None:
        self._client, self._count = client, count

    async def request(
        self,
        verb: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: str = _JSON,
        seconds: float = _SECONDS,
    ) -> Manifest:
        """One request; raises ApiError, or what aiohttp raises when the server cannot be reached."""
        # Without the body, which is plain JSON already: the client would copy it, 0.4 ms of a request's 1.0.
        method, url, headers, _, _ = await self._client.param_serialize(
            verb,
            path,
            query_params=list(query),
            header_params={"Accept": _JSON, "Content-Type": content},
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._client.call_api(
                method, url, headers, body, _request_timeout=aiohttp.ClientTimeout(total=seconds)
            )
            await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            self._count(verb, "none")
            raise
        self._count(verb, str(answer.status))
        async with answer.response:
            found: Manifest = await answer.response.json(content_type=None)
        if answer.status >= 400:
            raise ApiError(answer.status, str((found or {}).get("message", answer.reason)))
        return found

    async def keys(self, training: Training, new_keys: Callable[[], Secret], *, likely: bool) -> str:
        """The uid of the training's Secret, which is made if it is not there; `likely` says what to try first."""
        if likely:
            try:
                found = await self.request(
                    "GET", path_of("Secret", training.namespace, names.secret_name(training.name))
                )
            except ApiError as refused:
                if refused.code != 404:
                    raise
            else:
                if owned_by(found, training.uid):
                    return str(found["metadata"]["uid"])
        made = await self.create(new_keys(), training)
        return str(made["metadata"]["uid"])

    async def apply_plan(self, plan: Plan, training: Training) -> Applied:
        """Delete, update and create what a plan says."""
        applied = Applied()
        changed = await _all(self.delete(each, training.namespace) for each in plan.delete)
        changed += await _all(self.update(each, training) for each in plan.update)
        changed += await _all(self.ungate(each, training.namespace) for each in plan.ungate)
        applied.changed += [each for each in changed if each is not None]
        # Pods last: the scheduler and the kubelet complain of claims and ConfigMaps that are not there yet.
        for pods in (False, True):
            wanted = [manifest for manifest in plan.create if (manifest["kind"] == "Pod") == pods]
            made = await _all(self.create_or_report(manifest, training) for manifest in wanted)
            applied.created += [each for each in made if not isinstance(each, Rejection)]
            applied.rejections += [each for each in made if isinstance(each, Rejection)]
            if applied.rejections:
                break
        return applied

    async def create_or_report(self, manifest: ManagedObject, training: Training) -> Manifest | Rejection:
        """Create a child, or say why the API server does not."""
        try:
            return await self.create(manifest, training)
        except ApiError as refused:
            if (rejection := refused.rejection(manifest)) is None:
                raise
            return rejection

    async def create(self, manifest: ManagedObject, training: Training) -> Manifest:
        """Create a child, or find that it is there already; raises NameConflict if that one is not ours."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            return await self.request("POST", path_of(kind, training.namespace), with_spec_hash(manifest))
        except ApiError as refused:
            if refused.code != 409:
                raise
        found = await self.request("GET", path_of(kind, training.namespace, name))
        match owner_of({**found, "kind": kind}, training.name, training.uid):
            case Owner.TRAINING:
                return found
            case Owner.EARLIER:
                raise NameStillHeld(f"{kind} {name} of an earlier training {training.name} is still being deleted")
            case Owner.ANOTHER if kind == "PersistentVolumeClaim":
                raise NameConflict(
                    f"claim {name} exists already and was not created for a training {training.name}: "
                    f"set spec.checkpoints.claimName to {name} to keep checkpoints there, or rename the training"
                )
        raise NameConflict(
            f"{kind} {name} already exists and is owned by another object: rename the training, or delete it"
        )

    async def ungate(self, pod: ObjectRef, namespace: str) -> Manifest | None:
        """Remove the operator's own scheduling gate from a pod; None if the pod was deleted."""
        gates = [{"$patch": "delete", "name": names.GATE}]
        body = {"metadata": {"uid": pod.uid}, "spec": {"schedulingGates": gates}}
        try:
            return await self.request("PATCH", path_of("Pod", namespace, pod.name), body, content=_STRATEGIC_PATCH)
        except ApiError as refused:
            # 404: deleted; 409: a successor has the name.
            if refused.code in (404, 409):
                return None
            raise

    async def update(self, manifest: SharedObject, training: Training) -> Manifest:
        """Make of a child of ours what is desired now."""
        path = path_of(manifest["kind"], training.namespace, manifest["metadata"]["name"])
        found = await self.request("GET", path)
        if owner_of(found, training.name, training.uid) is not Owner.TRAINING:
            raise NameStillHeld(
                f"{manifest['kind']} {manifest['metadata']['name']} is not of this training {training.name}"
            )
        desired = with_spec_hash(manifest)
        # Of two that write, one is refused.
        desired["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        return await self.request("PUT", path, desired)

    async def delete(self, gone: ObjectRef, namespace: str) -> Manifest | None:
        """Delete this object and no successor; returns it as it still is, None if it is gone."""
        options: DeleteOptions = {"preconditions": {"uid": gone.uid}}
        if gone.grace_seconds is not None:
            options["gracePeriodSeconds"] = gone.grace_seconds
        try:
            answer = await self.request("DELETE", path_of(gone.kind, namespace, gone.name), options)
        except ApiError as refused:
            # 404: deleted; 409: a successor has the name.
            if refused.code in (404, 409):
                return None
            raise
        return answer if answer.get("kind") == gone.kind else None

    async def patch_status(self, training: Training, status: Status) -> Manifest | None:
        """Write the status if it is another than the one that was read; returns the resource as it is then."""
        # Against what is stored, so that what could not be parsed is replaced or removed.
        changes = merge_patch(training.stored, status.to_json())
        if not changes:
            return None
        path = path_of(KIND, training.namespace, training.name, "status")
        # The uid makes the server refuse if the training was replaced by another of the same name.
        body = {"metadata": {"uid": training.uid}, "status": changes}
        return await self.request("PATCH", path, body, content=MERGE_PATCH)

    async def list(
        self, kind: str, namespace: str | None, selector: str = "", guard: Guard | None = None
    ) -> tuple[list[CachedObject], int]:
        """All objects of a kind, trimmed page by page, and the version of the list as a whole.

        guard: takes note of objects that cannot be parsed, and are left out.
        """
        guard = guard or Guard()
        items: list[CachedObject] = []
        token = ""
        while True:
            asked = {"limit": str(_PAGE), "labelSelector": selector, "continue": token}
            query = [(key, value) for key, value in asked.items() if value]
            page = await self.request("GET", path_of(kind, namespace), query=query, seconds=60)
            for item in page["items"]:
                with guard.each("list", (kind, *namespace_and_name(item))):
                    items.append(prune({**item, "kind": kind}))
            if not (token := page["metadata"].get("continue", "")):
                return items, int(page["metadata"]["resourceVersion"])

    async def crd_is_installed(self) -> bool:
        """Whether the API server knows the resource yet."""
        try:
            found = await self.request("GET", f"/apis/{GROUP}/{VERSION}")
        except ApiError as refused:
            if refused.code == 404:
                return False
            raise
        return any(each["name"] == PLURAL for each in found.get("resources", ()))


async def _all(writes: Iterable[Awaitable[_Answer]]) -> list[_Answer]:
    """Write side by side. All are awaited before a failure is raised, so that none is still under way afterwards."""
    answers = await asyncio.gather(*writes, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def merge_patch(old: Any, new: Any) -> Manifest:
    """The merge patch that makes `new` of `old`; empty if they say the same."""
    patch: Manifest = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if changes := merge_patch(before, value):
                patch[key] = changes
        elif value != before:
            patch[key] = value
    return patch


@asynccontextmanager
async def connect(connections: int, count: Count) -> AsyncIterator[KubeClient]:
    """The cluster that this process runs in, or the kubeconfig's."""
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        await load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = connections
    # With it aiohttp reads the environment and ~/.netrc anew for each request, in another thread: a fifth of all time.
    configuration.client_session_kwargs = {"trust_env": _behind_a_proxy(configuration.host)}
    async with ApiClient(configuration) as client:
        client.user_agent = "resnext-operator"
        yield KubeClient(client, count)


def _behind_a_proxy(server: str) -> bool:
    """Whether the environment names a proxy for this server."""
    parts = urlsplit(server)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
