"""A key is worked on once for many events, never twice at a time, and later again after an error."""

import asyncio
import time

from resnext_operator.runtime.workqueue import WorkQueue

KEY = ("lab", "flowers")


def test_many_events_are_one_piece_of_work():
    queue = WorkQueue()
    for _ in range(10):
        queue.add(KEY)
    assert len(queue) == 1


def test_an_event_during_the_work_leads_to_one_more_look_afterwards():
    async def scenario():
        queue = WorkQueue()
        queue.add(KEY)
        assert await queue.get() == KEY
        queue.add(KEY)
        queue.add(KEY)
        assert queue._ready.empty()  # not while it is worked on
        queue.done(KEY)
        assert await asyncio.wait_for(queue.get(), 1) == KEY
        queue.done(KEY)
        assert len(queue) == 0

    asyncio.run(scenario())


def test_events_gather_in_the_pause_after_the_work():
    async def scenario():
        queue = WorkQueue(pause=0.2)
        queue.add(KEY)
        assert queue._ready.qsize() == 1, "the first look is at once"
        await queue.get()
        queue.done(KEY)
        ended = time.monotonic()
        for _ in range(5):
            queue.add(KEY)
        assert await asyncio.wait_for(queue.get(), 5) == KEY
        assert time.monotonic() - ended >= 0.2
        queue.done(KEY)
        await asyncio.sleep(0.3)
        assert queue._ready.empty(), "five events were one piece of work"
        queue.add(KEY)
        assert queue._ready.qsize() == 1, "after a rest, at once again"

    asyncio.run(scenario())


def test_each_failure_doubles_the_pause_and_a_success_ends_it():
    async def scenario():
        queue = WorkQueue()
        pauses = []
        for _ in range(10):
            queue.add(KEY)
            await queue.get()
            pauses.append(queue.add_rate_limited(KEY))
        assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
        assert max(pauses) == 60.0
        queue.add(KEY)
        await queue.get()
        queue.done(KEY)
        queue.add(KEY)
        await queue.get()
        assert queue.add_rate_limited(KEY) == 0.5

    asyncio.run(scenario())


def test_of_two_times_the_earlier_holds():
    async def scenario():
        queue = WorkQueue()
        queue.add_after(KEY, 60)
        queue.add_after(KEY, 0.01)
        queue.add_after(KEY, 30)
        assert await asyncio.wait_for(queue.get(), 1) == KEY

    asyncio.run(scenario())
