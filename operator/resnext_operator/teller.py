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

# One alone falls minutes behind where 1,000 trainings begin at once.
_LANES = 4


class Teller:
    """Tells a training's events in their order; one that cannot be told is logged and left out."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lanes: list[asyncio.Queue[Manifest]] = [asyncio.Queue() for _ in range(_LANES)]

    def tell(self, training: Training, event: Event, now: datetime) -> None:
        """Have an event told soon."""
        # Its manifest is a tenth of the training that it would hold until it is told.
        self._lanes[hash(training.key) % _LANES].put_nowait(_manifest(training, event, policy.stamp(now)))

    async def run(self) -> None:
        """Tell what waits, for ever."""
        await asyncio.gather(*(self._tell(lane) for lane in self._lanes))

    async def _tell(self, lane: asyncio.Queue[Manifest]) -> None:
        while True:
            event = await lane.get()
            try:
                await self._write(event)
            except (Refused, aiohttp.ClientError, TimeoutError) as error:
                about = event["involvedObject"]
                told = f"{about['namespace']}/{about['name']}: {event['reason']}"
                _log.warning("event %s is not told: %s", told, words(error))

    async def _write(self, event: Manifest) -> None:
        """The same words again only raise the count of the event that is there."""
        name, namespace = event["metadata"]["name"], event["metadata"]["namespace"]
        try:
            await self._cluster.request("POST", path_of("Event", namespace), event)
        except Refused as refused:
            if refused.code != 409:
                raise
            path = path_of("Event", namespace, name)
            again = {
                "count": (await self._cluster.request("GET", path)).get("count", 1) + 1,
                "lastTimestamp": event["lastTimestamp"],
            }
            await self._cluster.request("PATCH", path, again, content=MERGE_PATCH)


def _manifest(training: Training, event: Event, at: str) -> Manifest:
    """Named after its words, so that the same words are the same event."""
    told = f"{training.uid}/{event.type}/{event.reason}/{event.message}"
    return {
        "metadata": {
            "name": f"{training.name}.{hashlib.sha256(told.encode()).hexdigest()[:16]}",
            "namespace": training.namespace,
        },
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
