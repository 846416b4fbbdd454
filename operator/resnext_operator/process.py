"""The process: every replica watches and is ready to lead; the one that leads works until it loses the Lease."""

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import aiohttp
import kopf

from resnext_operator import handlers
from resnext_operator.cache import Cache
from resnext_operator.cluster import Cluster, Leftover, Refused, connect, words
from resnext_operator.handlers import Runtime
from resnext_operator.leader import Leader, Lost
from resnext_operator.metrics import Metrics, serve
from resnext_operator.progress import Watch
from resnext_operator.settings import Settings
from resnext_operator.teller import Teller
from resnext_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)

# It lets the handlers of what it has seen end, which are ours and short.
_END_OF_KOPF = 5.0

# What passes by itself, told in one line; anything else is a mistake of ours and told with its traceback.
_PASSING = (Refused, Leftover, aiohttp.ClientError, TimeoutError)


async def run(settings: Settings) -> int:
    """Work until told to stop, or until something essential fails; returns the exit code."""
    cache, queue = Cache(), WorkQueue(settings.pause_seconds)
    metrics = Metrics(cache, queue.__len__)
    async with connect(settings.connections, metrics.requested) as cluster, connect(1, metrics.requested) as apart:
        runtime = Runtime(settings, cluster, cache, queue, Watch(cache, queue, settings), Teller(cluster), metrics)
        leader = Leader(apart, settings)
        known = asyncio.Event()
        server = await serve(metrics, settings.port, known.is_set)
        working = asyncio.create_task(_lead(runtime, leader, known))
        watching: asyncio.Task[None] | None = None
        stop = _stop_signal()
        try:
            if not await _until_served(cluster, stop):
                return 0
            # From here on kopf listens for the signals itself.
            watching = asyncio.create_task(_watch(runtime))
            done, _ = await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and (error := task.exception()):
                    _explain(error)
            # kopf ends without an error when it is told to stop.
            return 0 if watching in done and not watching.exception() else 1
        finally:
            # Nothing is written any more when the next one may lead.
            working.cancel()
            await asyncio.wait((working,))
            await leader.release()
            if watching:
                # By itself: kopf never ends if the event loop's own end takes its inner tasks first.
                watching.cancel()
                await asyncio.wait((watching,), timeout=_END_OF_KOPF)
            await server.cleanup()


def _explain(error: BaseException) -> None:
    """The Lease went to another: nothing is wrong here. Whatever else it was is told with its traceback."""
    lost = error.subgroup(Lost) if isinstance(error, BaseExceptionGroup) else None
    if lost:
        _log.error("%s", lost.exceptions[0])
    else:
        _log.error("ended by an error", exc_info=error)


def _stop_signal() -> asyncio.Event:
    """Set when the process is asked to end: as a container's first process it would not notice otherwise."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _until_served(cluster: Cluster, stop: asyncio.Event) -> bool:
    """Wait for the resource, for kopf would never look again for it; False if asked to stop first."""
    while not stop.is_set():
        try:
            if await cluster.served():
                return not stop.is_set()
            _log.warning("the cluster does not know ResNeXtTraining yet: is the CustomResourceDefinition installed?")
        except _PASSING as error:
            _log.warning("%s", words(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 2)
    return False


async def _watch(runtime: Runtime) -> None:
    await kopf.operator(
        registry=handlers.registry(runtime.cache, runtime.queue),
        settings=handlers.quiet(),
        standalone=True,
        clusterwide=not runtime.settings.namespaces,
        namespaces=runtime.settings.namespaces,
    )


async def _lead(runtime: Runtime, leader: Leader, known: asyncio.Event) -> None:
    """Everything is listed before anything is decided: a pod that is not known yet would be made again."""
    await _relist_patiently(runtime)
    known.set()
    await leader.acquire()
    runtime.metrics.leading = True
    try:
        async with asyncio.TaskGroup() as group:
            # From here on, so that no relist delays a renewal.
            group.create_task(leader.keep())
            await _relist_patiently(runtime)
            for loop in (*(_work(runtime) for _ in range(runtime.settings.reconcilers)), *_loops(runtime)):
                group.create_task(loop)
    finally:
        runtime.metrics.leading = False


def _loops(runtime: Runtime) -> list[Coroutine[Any, Any, None]]:
    return [_resync(runtime), _relist_now_and_then(runtime), runtime.progress.run(), runtime.teller.run()]


async def _work(runtime: Runtime) -> None:
    """Take keys, one at a time."""
    queue, metrics = runtime.queue, runtime.metrics
    while True:
        key = await queue.get()
        started = time.monotonic()
        try:
            await handlers.reconcile(key, runtime)
        except Exception as error:
            metrics.errors.inc()
            delay = queue.failed(key)
            mistake = None if isinstance(error, _PASSING) else error
            _log.warning("%s/%s: again in %.1f s: %s", *key, delay, words(error), exc_info=mistake)
        else:
            queue.done(key)
        metrics.reconciled.observe(time.monotonic() - started)


async def _resync(runtime: Runtime) -> None:
    """Look at every training now and then, whatever happened: time alone can be a reason to act."""
    while True:
        for key in runtime.cache.known():
            runtime.queue.add(key)
        await asyncio.sleep(runtime.settings.resync_seconds)


async def _relist_now_and_then(runtime: Runtime) -> None:
    while True:
        await asyncio.sleep(runtime.settings.relist_seconds)
        await _relist_patiently(runtime)


async def _relist_patiently(runtime: Runtime) -> None:
    while True:
        try:
            await _relist(runtime)
            return
        except _PASSING as error:
            _log.warning("cannot list: %s", words(error))
            await asyncio.sleep(2)


async def _relist(runtime: Runtime) -> None:
    """What kopf's watch does not tell: objects that went while it was broken."""
    for kind in handlers.WATCHED:
        for namespace in runtime.settings.namespaces or (None,):
            listed, version = await runtime.cluster.list(kind, namespace, handlers.selector(kind))
            for found in runtime.cache.replace(kind, namespace, listed, version):
                for key in handlers.concerned(found, runtime.cache):
                    runtime.queue.add(key)
