"""Records events on trainings in the background, so that reconciliation never waits for them."""

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

# With one queue, events lag by minutes if 1,000 trainings start at once.
_SHARDS = 4

# Bounds the memory if the API server accepts no events: about 1 kB each.
_MAX_QUEUED = 2000


class EventRecorder:
    """Writes the events of each training in order; one that cannot be written is logged and skipped."""

    def __init__(self, cluster: KubeClient, guard: Guard | None = None) -> None:
        self._cluster, self._guard = cluster, guard or Guard()
        self._queues: list[asyncio.Queue[EventObject]] = [asyncio.Queue(_MAX_QUEUED) for _ in range(_SHARDS)]

    def record(self, training: Training, event: Event, now: datetime) -> None:
        """Queue an event."""
        # The manifest is a tenth of the size of the training that the queue would hold otherwise.
        with self._guard.each("events", (*training.key, event.reason)):
            self._queues[hash(training.key) % _SHARDS].put_nowait(_manifest(training, event, to_rfc3339(now)))

    async def run(self) -> None:
        """Write queued events until cancelled."""
        await asyncio.gather(*(self._write_queued(queue) for queue in self._queues))

    async def _write_queued(self, queue: asyncio.Queue[EventObject]) -> None:
        while True:
            event = await queue.get()
            about = event["involvedObject"]
            with self._guard.each("events", (about["namespace"], about["name"], event["reason"])):
                await self._write(event)

    async def _write(self, event: EventObject) -> None:
        """Create the event, or increment the count of the existing one."""
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
    """The event's manifest. Events are deduplicated by message: the name is a hash of reason and message."""
    identity = f"{training.uid}/{event.type}/{event.reason}/{event.message}"
    return {
        "metadata": {
            "name": f"{training.name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
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
