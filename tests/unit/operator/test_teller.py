"""Events are told beside the work, in their order; one that cannot be told holds up none."""

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
    """Keeps events, and refuses what a test wants refused."""

    def __init__(self, refused=()):
        self.events, self.refused = {}, refused

    async def request(self, verb, path, body=None, **_):
        await asyncio.sleep(0)
        if verb == "POST":
            if body["message"] in self.refused:
                raise ApiError(403, "the namespace goes")
            if body["metadata"]["name"] in self.events:
                raise ApiError(409, "there already")
            self.events[body["metadata"]["name"]] = body
            return body
        found = self.events[path.rsplit("/", 1)[1]]
        if verb == "PATCH":
            found |= body
        return found


def told(server, *messages):
    async def story():
        teller = EventRecorder(server)
        telling = asyncio.create_task(teller.run())
        for message in messages:
            teller.record(TRAINING, Event("Normal", "Training", message), NOW)
        await asyncio.sleep(0.05)
        telling.cancel()

    asyncio.run(story())
    return [(each["message"], each["count"]) for each in server.events.values()]


def test_they_come_in_their_order():
    assert told(Server(), "one", "two", "three") == [("one", 1), ("two", 1), ("three", 1)]


def test_the_same_words_are_one_event_that_counts():
    assert told(Server(), "one", "two", "one", "one") == [("one", 3), ("two", 1)]


def test_one_that_is_refused_is_left_out():
    assert told(Server(refused=("two",)), "one", "two", "three") == [("one", 1), ("three", 1)]
