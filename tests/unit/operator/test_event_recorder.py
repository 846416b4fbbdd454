"""Events are emitted asynchronously and in order; a rejected event blocks no other."""

import asyncio
from datetime import UTC, datetime

from resnext_operator.api.validation import parse
from resnext_operator.domain.plan import Event
from resnext_operator.runtime.client import ApiError, KubeClient
from resnext_operator.runtime.event_recorder import EventRecorder
from tests.support.fake_cluster import SITE, resource

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRAINING = parse(resource(), SITE)


class Server(KubeClient):
    """Stores events, and rejects the given messages."""

    def __init__(self, refused=()):
        self.events, self.refused = {}, refused

    async def request(self, verb, path, body=None, **_):
        await asyncio.sleep(0)
        if verb == "POST":
            if body["message"] in self.refused:
                raise ApiError(403, "the namespace is being terminated")
            if body["metadata"]["name"] in self.events:
                raise ApiError(409, "already exists")
            self.events[body["metadata"]["name"]] = body
            return body
        found = self.events[path.rsplit("/", 1)[1]]
        if verb == "PATCH":
            found |= body
        return found


def assert_recorded(server, *messages, expected):
    """expected: messages and counts of the events."""

    def found():
        return [(each["message"], each["count"]) for each in server.events.values()]

    async def scenario():
        recorder = EventRecorder(server)
        running = asyncio.create_task(recorder.run())
        for message in messages:
            recorder.record(TRAINING, Event("Normal", "StepsProgressing", message), NOW)
        async with asyncio.timeout(10):
            while found() != expected:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        running.cancel()

    asyncio.run(scenario())
    assert found() == expected


def test_recorder_emits_events_in_order():
    """Events are created in the order of their recording."""
    assert_recorded(Server(), "one", "two", "three", expected=[("one", 1), ("two", 1), ("three", 1)])


def test_recorder_aggregates_equal_messages():
    """Equal messages update one event's count."""
    assert_recorded(Server(), "one", "two", "one", "one", expected=[("one", 3), ("two", 1)])


def test_recorder_skips_rejected_event():
    """The following events are still emitted."""
    assert_recorded(Server(refused=("two",)), "one", "two", "three", expected=[("one", 1), ("three", 1)])
