"""The work queue deduplicates keys, never runs a key twice at a time, and retries with backoff."""

import asyncio
import time

from resnext_operator.runtime.workqueue import WorkQueue

KEY = ("lab", "flowers")


def test_queue_deduplicates_pending_key():
    """Ten additions are one item."""
    queue = WorkQueue()
    for _ in range(10):
        queue.add(KEY)
    assert len(queue) == 1


def test_key_added_while_processing_runs_again_after():
    """The queue does not return a key again before `done` is called for it."""

    async def scenario():
        queue = WorkQueue()
        queue.add(KEY)
        assert await queue.get() == KEY
        queue.add(KEY)
        queue.add(KEY)
        assert queue._ready.empty()  # not while it is being processed
        queue.done(KEY)
        assert await asyncio.wait_for(queue.get(), 1) == KEY
        queue.done(KEY)
        assert len(queue) == 0

    asyncio.run(scenario())


def test_namespace_above_limit_waits():
    """Keys of other namespaces are returned in the meantime. Held keys are returned in order, even after an error."""

    async def scenario():
        queue = WorkQueue(per_namespace=2)
        for name in "abcd":
            queue.add(("full", name))
        queue.add(("other", "x"))
        assert [await queue.get() for _ in range(3)] == [("full", "a"), ("full", "b"), ("other", "x")]
        assert len(queue) == 2
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        queue.add_rate_limited(("full", "a"))
        assert await asyncio.wait_for(waiting, 1) == ("full", "c")
        queue.done(("full", "b"))
        assert await asyncio.wait_for(queue.get(), 1) == ("full", "d")
        for name in "cd":
            queue.done(("full", name))
        queue.done(("other", "x"))
        assert len(queue) == 0
        assert not queue._busy
        assert not queue._held

    asyncio.run(scenario())


def test_additions_within_pause_run_once():
    """The first run is immediate; later additions wait for the pause and run once."""

    async def scenario():
        queue = WorkQueue(pause=0.2)
        queue.add(KEY)
        assert queue._ready.qsize() == 1, "the first run is immediate"
        await queue.get()
        ended = time.monotonic()
        queue.done(KEY)
        for _ in range(5):
            queue.add(KEY)
        assert await asyncio.wait_for(queue.get(), 5) == KEY
        assert time.monotonic() - ended >= 0.2
        queue.done(KEY)
        await asyncio.sleep(0.3)
        assert queue._ready.empty(), "five events caused one run"
        queue.add(KEY)
        assert queue._ready.qsize() == 1, "immediate again after a pause"

    asyncio.run(scenario())


def test_rate_limit_doubles_and_resets_on_success():
    """The delay grows from 0.5 s to 60 s."""

    async def scenario():
        queue = WorkQueue()
        delays = []
        for _ in range(10):
            queue.add(KEY)
            await queue.get()
            delays.append(queue.add_rate_limited(KEY))
        assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
        assert max(delays) == 60.0
        queue.add(KEY)
        await queue.get()
        queue.done(KEY)
        queue.add(KEY)
        await queue.get()
        assert queue.add_rate_limited(KEY) == 0.5

    asyncio.run(scenario())


def test_earlier_of_two_delays_wins():
    """A later delay does not postpone an earlier one."""

    async def scenario():
        queue = WorkQueue()
        queue.add_after(KEY, 60)
        queue.add_after(KEY, 0.01)
        queue.add_after(KEY, 30)
        assert await asyncio.wait_for(queue.get(), 1) == KEY

    asyncio.run(scenario())
