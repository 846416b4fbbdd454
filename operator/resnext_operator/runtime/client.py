"""Client of the API server with a connection pool."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import kopf

from resnext_operator.api.groupversion import GROUP, KIND, PLURAL, VERSION
from resnext_operator.api.objects import Manifest
from resnext_operator.api.objects.shared import ManagedObject
from resnext_operator.domain.observed import Rejection
from resnext_operator.rendering import names
from resnext_operator.runtime.credentials import Credentials

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
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
# Quotas, admission policies and webhooks usually respond with 403; 422 and 400 mean that the object is invalid.
_REJECTIONS = (400, 403, 422)
_SECONDS = 15.0

Count = Callable[[str, str], None]
"""Called with verb and status code of each request; the code "none" means no response."""


class ApiError(Exception):
    """An error response of the API server, with its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    def rejection(self, manifest: ManagedObject) -> Rejection | None:
        """The error as a rejection of an object to create; None if the object is not the cause."""
        if self.code not in _REJECTIONS:
            return None
        metadata = manifest["metadata"]
        role = metadata["labels"].get(names.ROLE, "")
        return Rejection(manifest["kind"], metadata["name"], role, self.code, self.message)


def describe_error(error: BaseException) -> str:
    """The message of an error, or its type if it has no message, such as TimeoutError."""
    return str(error) or type(error).__name__


def path_of(kind: str, namespace: str | None, name: str = "", part: str = "") -> str:
    prefix, plural = PATHS[kind]
    within = ("namespaces", namespace) if namespace else ()
    return "/" + "/".join(filter(None, (prefix, *within, plural, name, part)))


class KubeClient:
    """Sends requests; responses are plain dictionaries."""

    def __init__(
        self, session: aiohttp.ClientSession, server: str, authentication: Callable[[], Mapping[str, str]], count: Count
    ) -> None:
        """server: URL of the API server. authentication: returns the HTTP headers that authenticate a request."""
        self._session, self._server = session, server.rstrip("/")
        self._authentication, self._count = authentication, count

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
        """Send a request. Raises ApiError, or the exceptions of aiohttp if the server is unreachable."""
        try:
            async with self._session.request(
                verb,
                self._server + path,
                params=query,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Accept": _JSON, "Content-Type": content, **self._authentication()},
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            self._count(verb, "none")
            raise
        self._count(verb, str(answer.status))
        if answer.status >= 400:
            raise ApiError(answer.status, _message(text) or str(answer.reason))
        found: Manifest = json.loads(text)
        return found


def _message(text: bytes) -> str:
    """The message of an error response; empty if it is not JSON, for example that of a load balancer."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, TypeError, KeyError):
        return ""


@asynccontextmanager
async def connect(connections: int, count: Count) -> AsyncIterator[KubeClient]:
    """Connect to the cluster that this process runs in, or to that of the kubeconfig."""
    credentials = Credentials()
    async with open_session(credentials.info, connections) as session:
        yield KubeClient(session, credentials.info.server, credentials.headers, count)


def open_session(info: kopf.ConnectionInfo, connections: int) -> aiohttp.ClientSession:
    """A pool of connections to the API server; requests must authenticate themselves."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=info.as_ssl_context()),
        headers={"User-Agent": "resnext-operator"},
        proxy=info.proxy_url,
        # With trust_env, aiohttp reads the environment and ~/.netrc for each request in another thread.
        trust_env=_behind_a_proxy(info.server),
    )


def _behind_a_proxy(server: str) -> bool:
    """Whether the environment configures a proxy for this server."""
    parts = urlsplit(server)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
