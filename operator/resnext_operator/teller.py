"""Events on trainings, written beside the work: nothing waits for what is only told."""

import asyncio
import hashlib
import logging
from datetime import datetime

import aiohttp

from resnext_operator import policy
from resnext_operator.api import GROUP, KIND, VERSION, Event, Manifest, Training
from resnext_operator.cluster import MERGE_PATCH, Cluster, Refused, path_of, words

_log = logging.getLogger(__name__)

_COMPONENT = "resnext-operator"


class Teller:
    """Tells one event after the other, in their order; one that cannot be told is logged and left out."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: asyncio.Queue[tuple[Training, Event, datetime]] = asyncio.Queue()

    def tell(self, training: Training, event: Event, now: datetime) -> None:
        """Have an event told soon."""
        self._waiting.put_nowait((training, event, now))

    async def run(self) -> None:
        """Tell what waits, for ever."""
        while True:
            training, event, now = await self._waiting.get()
            try:
                await self._write(training, event, policy.stamp(now))
            except (Refused, aiohttp.ClientError, TimeoutError) as error:
                _log.warning("%s/%s: event %s is not told: %s", *training.key, event.reason, words(error))

    async def _write(self, training: Training, event: Event, at: str) -> None:
        """The same words again only raise the count of the event that is there."""
        told = f"{training.uid}/{event.type}/{event.reason}/{event.message}"
        name = f"{training.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        body: Manifest = {
            "metadata": {"name": name, "namespace": training.namespace},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "namespace": training.namespace,
                "name": training.name,
                "uid": training.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": _COMPONENT},
            "reportingComponent": _COMPONENT,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        try:
            await self._cluster.request("POST", path_of("Event", training.namespace), body)
        except Refused as refused:
            if refused.code != 409:
                raise
            path = path_of("Event", training.namespace, name)
            count = (await self._cluster.request("GET", path)).get("count", 1) + 1
            await self._cluster.request("PATCH", path, {"count": count, "lastTimestamp": at}, content=MERGE_PATCH)
