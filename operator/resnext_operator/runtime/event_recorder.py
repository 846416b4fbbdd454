"""Events on trainings, written beside the work: nothing waits for what is only told."""

import asyncio
import hashlib
from datetime import datetime

from resnext_operator.api.groupversion import GROUP, KIND, VERSION
from resnext_operator.api.objects.event import Event as EventObject
from resnext_operator.api.timestamps import to_rfc3339
from resnext_operator.api.training import Training
from resnext_operator.domain.plan import Event
from resnext_operator.runtime.client import MERGE_PATCH, ApiError, KubeClient, path_of
from resnext_operator.runtime.guard import Guard

_COMPONENT = "resnext-operator"

# One alone falls minutes behind where 1,000 trainings begin at once.
_SHARDS = 4

# An API server that takes no events for long must not fill the operator's memory with them: 1 kB each.
_MOST_WAITING = 2000


class EventRecorder:
    """Tells a training's events in their order; one that cannot be told is logged and left out."""

    def __init__(self, cluster: KubeClient, guard: Guard | None = None) -> None:
        self._cluster, self._guard = cluster, guard or Guard()
        self._lanes: list[asyncio.Queue[EventObject]] = [asyncio.Queue(_MOST_WAITING) for _ in range(_SHARDS)]

    def record(self, training: Training, event: Event, now: datetime) -> None:
        """Have an event told soon."""
        # Its manifest is a tenth of the training that it would hold until it is told.
        with self._guard.each("events", (*training.key, event.reason)):
            self._lanes[hash(training.key) % _SHARDS].put_nowait(_manifest(training, event, to_rfc3339(now)))

    async def run(self) -> None:
        """Tell what waits, for ever."""
        await asyncio.gather(*(self._tell(lane) for lane in self._lanes))

    async def _tell(self, lane: asyncio.Queue[EventObject]) -> None:
        while True:
            event = await lane.get()
            about = event["involvedObject"]
            with self._guard.each("events", (about["namespace"], about["name"], event["reason"])):
                await self._write(event)

    async def _write(self, event: EventObject) -> None:
        """The same words again only raise the count of the event that is there."""
        name, namespace = event["metadata"]["name"], event["metadata"]["namespace"]
        try:
            await self._cluster.request("POST", path_of("Event", namespace), event)
        except ApiError as refused:
            if refused.code != 409:
                raise
            path = path_of("Event", namespace, name)
            count = (await self._cluster.request("GET", path)).get("count")
            again = {
                "count": min(count + 1, 2**31 - 1) if isinstance(count, int) else 1,
                "lastTimestamp": event["lastTimestamp"],
            }
            await self._cluster.request("PATCH", path, again, content=MERGE_PATCH)


def _manifest(training: Training, event: Event, at: str) -> EventObject:
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
