"""Leader election: the replica that holds the Lease reconciles; the others only watch.

kubernetes.aio.leaderelection is not used: a connection error ends its loop and leaves a leader that never renews, and
it never releases the Lease.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

import aiohttp

from resnext_operator.api.objects import Manifest
from resnext_operator.runtime.client import ApiError, KubeClient, describe_error, path_of
from resnext_operator.runtime.settings import Settings

_log = logging.getLogger(__name__)

LEASE_DURATION = 15.0
"""Seconds after the last renewal until another replica may lead; the default of Kubernetes' own components."""

_RENEW, _DEADLINE, _REQUEST = 2.0, 10.0, 4.0


class LeadershipLost(Exception):
    """The Lease could not be renewed. The process must exit, since another replica may lead."""


class Leader:
    """This replica's view of the Lease."""

    def __init__(self, cluster: KubeClient, settings: Settings) -> None:
        """cluster: a client with its own connection, so that other requests cannot delay a renewal."""
        self._cluster, self._identity = cluster, settings.identity
        self._collection = path_of("Lease", settings.lease_namespace)
        self._path, self._name = f"{self._collection}/{settings.lease_name}", settings.lease_name
        self._seen: tuple[str, float] = ("", 0.0)
        self._lease: Manifest = {}
        self.leading = False

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        while not self.leading:
            try:
                self.leading = await self._try_acquire_or_renew()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                _log.warning("lease %s could not be acquired, retrying: %s", self._name, describe_error(error))
            if not self.leading:
                await asyncio.sleep(_RENEW)
        _log.info("%s became leader", self._identity)

    async def renew_loop(self) -> None:
        """Renew the Lease until a renewal fails; raises LeadershipLost before another replica may lead."""
        try:
            await self._renew_periodically()
        except LeadershipLost:
            self.leading = False
            raise

    async def _renew_periodically(self) -> None:
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(_RENEW if time.monotonic() - renewed < _RENEW else 0.5)
            started = time.monotonic()
            try:
                await self._renew()
                renewed = started
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                if time.monotonic() - renewed > _DEADLINE:
                    raise LeadershipLost(f"lease {self._name} could not be renewed: {describe_error(error)}") from None

    async def _renew(self) -> None:
        lease = await self._update({})
        if lease is None:
            raise LeadershipLost(f"lease {self._name} was acquired by another replica")
        self._lease = lease

    async def release(self) -> None:
        """Release the Lease so that another replica can lead immediately. Call it after the last write."""
        if not self.leading:
            return
        self.leading = False
        try:
            await self._release()
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            _log.warning("lease %s could not be released and will expire: %s", self._name, describe_error(error))

    async def _release(self) -> None:
        await self._update({"holderIdentity": "", "leaseDurationSeconds": 1})

    async def _update(self, changes: Manifest) -> Manifest | None:
        """Write the lease that this replica holds; None if another one holds it."""
        try:
            return await self._write({**self._lease["spec"], **changes}, self._lease)
        except ApiError as error:
            if error.code != 409:
                raise
        # A renewal may have been stored although it was cancelled or its response was lost or late.
        stored = await self._cluster.request("GET", self._path, seconds=_REQUEST)
        if stored["spec"].get("holderIdentity") != self._identity:
            return None
        return await self._write({**stored["spec"], **changes}, stored)

    async def _try_acquire_or_renew(self) -> bool:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = {"holderIdentity": self._identity, "leaseDurationSeconds": int(LEASE_DURATION), "acquireTime": now}
        try:
            lease = await self._cluster.request("GET", self._path, seconds=_REQUEST)
        except ApiError as refused:
            if refused.code != 404:
                raise
            self._lease = await self._write(mine, None)
            return True
        spec = lease.get("spec") or {}
        # Expiry is measured with the local clock from the last observed change, because clocks differ between nodes.
        if self._seen[0] != (version := lease["metadata"]["resourceVersion"]):
            self._seen = (version, time.monotonic())
        holder = spec.get("holderIdentity")
        if holder and holder != self._identity and time.monotonic() - self._seen[1] < LEASE_DURATION:
            return False
        transitions = spec.get("leaseTransitions", 0) + 1
        try:
            self._lease = await self._write({**mine, "leaseTransitions": transitions}, lease)
        except ApiError as refused:
            if refused.code == 409:
                return False
            raise
        return True

    async def _write(self, spec: Manifest, before: Manifest | None) -> Manifest:
        """Write the Lease with the resourceVersion that was read, so that a concurrent write causes a conflict."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": before["metadata"] if before else {"name": self._name},
            "spec": {**spec, "renewTime": now},
        }
        verb, path = ("PUT", self._path) if before else ("POST", self._collection)
        return await self._cluster.request(verb, path, body, seconds=_REQUEST)
