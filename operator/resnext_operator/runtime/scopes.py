"""Lists and watches every kind in each namespace independently, so that a failure does not affect the others.

If a request is rejected, kopf stops all its watches and cancels all other tasks of its event loop. Each namespace
therefore has its own kopf in its own thread.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import kopf

from resnext_operator.api.objects import Manifest
from resnext_operator.domain.backoff import exponential_delay
from resnext_operator.runtime import controller
from resnext_operator.runtime.cached_objects import CachedObject
from resnext_operator.runtime.children import NameStillHeld
from resnext_operator.runtime.client import ApiError, describe_error
from resnext_operator.runtime.controller import Runtime
from resnext_operator.runtime.guard import Repeats
from resnext_operator.runtime.listing import list_objects
from resnext_operator.runtime.unstructured import namespace_and_name

_log = logging.getLogger(__name__)

TRANSIENT_ERRORS = (ApiError, NameStillHeld, aiohttp.ClientError, TimeoutError)
"""Errors that are retried and logged in one line. Any other error is a bug and is logged with its traceback."""

_FIRST_DELAY, _LAST_DELAY, _LAST_DELAY_UNREADABLE = 1.0, 15.0, 60.0

# kopf waits for running handlers, which are short.
_KOPF_SHUTDOWN_TIMEOUT = 5.0

# Status codes if the namespace, or the operator's Role in it, does not exist.
_UNREADABLE = (403, 404)

Namespace = str | None
"""None means the whole cluster."""


class Scopes:
    """Lists and watches of all kinds in all served namespaces."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._namespaces: tuple[Namespace, ...] = runtime.settings.namespaces or (None,)
        self._all = [(kind, namespace) for namespace in self._namespaces for kind in controller.WATCHED]
        self._round = 0
        self._listed: set[tuple[str, Namespace]] = set()
        self._tried: set[tuple[str, Namespace]] = set()
        self._unreadable: set[Namespace] = set()
        self._due = {scope: asyncio.Event() for scope in self._all}
        self._progress = asyncio.Condition()
        self._repeats = Repeats()
        self._ready = False

    def knows(self, namespace: str) -> bool:
        """Whether everything in a namespace is listed. Before that, existing pods would be created again."""
        return self._knows(namespace if self._runtime.settings.namespaces else None)

    def _knows(self, namespace: Namespace) -> bool:
        return all((kind, namespace) in self._listed for kind in controller.WATCHED)

    def ready(self) -> bool:
        """Whether every list has been attempted, and at least one namespace is listed or does not exist."""
        answered = any(self._knows(namespace) or namespace in self._unreadable for namespace in self._namespaces)
        self._ready = self._ready or (answered and len(self._tried) == len(self._all))
        return self._ready

    async def until(self, holds: Callable[[], bool]) -> None:
        async with self._progress:
            await self._progress.wait_for(holds)

    def start_over(self) -> None:
        """List everything again before the next decision, because a broken watch may have missed events."""
        self._round += 1
        self._listed.clear()
        for due in self._due.values():
            due.set()

    async def run(self) -> None:
        """List and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind, namespace in self._all:
                group.create_task(self._keep_listed(kind, namespace))
            for namespace in self._namespaces:
                group.create_task(self._keep_watched(namespace))

    # -- lists -------------------------------------------------------------------------------------------------------

    async def _keep_listed(self, kind: str, namespace: Namespace) -> None:
        due, failures = self._due[kind, namespace], 0
        while True:
            due.clear()
            try:
                await self._list(kind, namespace)
                failures, pause = 0, self._runtime.settings.relist_seconds
            except Exception as error:
                failures += 1
                unreadable = isinstance(error, ApiError) and error.code in _UNREADABLE and namespace is not None
                most = _LAST_DELAY_UNREADABLE if unreadable else _LAST_DELAY
                pause = exponential_delay(_FIRST_DELAY, most, failures)
                self._failed(kind, namespace, error, unreadable)
            self._tried.add((kind, namespace))
            async with self._progress:
                self._progress.notify_all()
            # Every replica retries failed lists. Only the leader relists periodically to find missed events.
            with suppress(TimeoutError):
                await asyncio.wait_for(due.wait(), pause if failures or self._runtime.metrics.leading else None)

    async def _list(self, kind: str, namespace: Namespace) -> None:
        """List one kind, and queue the trainings that the changes affect."""
        runtime, begun = self._runtime, self._round
        listed, version = await list_objects(runtime.cluster, kind, namespace, controller.selector(kind), runtime.guard)
        changed = runtime.cache.resync(kind, namespace, listed, version, self._skipped)
        for found in changed:
            with runtime.guard.each("list", (kind, *namespace_and_name(found))):
                for key in controller.affected_trainings(found, runtime):
                    runtime.queue.add(key)
        if begun != self._round:
            return
        known = self._knows(namespace)
        self._listed.add((kind, namespace))
        if namespace in self._unreadable:
            self._unreadable.discard(namespace)
            _log.info("namespace %s is readable again", namespace)
        if not known and self._knows(namespace):
            for key in runtime.cache.training_keys():
                if namespace in (None, key[0]):
                    runtime.queue.add(key)

    def _skipped(self, found: CachedObject, error: Exception) -> None:
        self._runtime.guard.skipped("list", (found.get("kind"), *namespace_and_name(found)), error)

    def _failed(self, kind: str, namespace: Namespace, error: Exception, unreadable: bool) -> None:
        where = f"in namespace {namespace}" if namespace else "in the cluster"
        if unreadable and namespace is not None:
            self._listed.discard((kind, namespace))
            if namespace not in self._unreadable:
                self._unreadable.add(namespace)
                self._runtime.cache.forget(namespace)
                message = "namespace %s is not readable: %s; create the namespace and the operator's Role in it"
                _log.info(message, namespace, describe_error(error))
        elif self._repeats.first((kind, namespace, describe_error(error))):
            unexpected = None if isinstance(error, TRANSIENT_ERRORS) else error
            _log.warning("listing %s %s failed, retrying: %s", kind, where, describe_error(error), exc_info=unexpected)

    # -- watches -----------------------------------------------------------------------------------------------------

    async def _keep_watched(self, namespace: Namespace) -> None:
        failures = 0
        while True:
            await self.until(lambda: self._knows(namespace))
            started = time.monotonic()
            error = await _Kopf(self._runtime, namespace).run()
            failures = failures + 1 if time.monotonic() - started < _LAST_DELAY_UNREADABLE else 1
            where = f"of namespace {namespace}" if namespace else "of the cluster"
            if namespace not in self._unreadable and self._repeats.first(("watch", namespace, describe_error(error))):
                _log.warning("watch %s ended, restarting: %s", where, describe_error(error))
            # List again to find missed events and to check whether the namespace still exists.
            for kind in controller.WATCHED:
                self._due[kind, namespace].set()
            await asyncio.sleep(exponential_delay(_FIRST_DELAY, _LAST_DELAY, failures))


class _Kopf:
    """Runs kopf in a thread. Its events are handled in the event loop that created it."""

    def __init__(self, runtime: Runtime, namespace: Namespace) -> None:
        self._runtime, self._namespace = runtime, namespace
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[BaseException] = self._loop.create_future()
        self._stop: Callable[[], object] | None = None
        self._stopping = False
        self._events: deque[tuple[str, Manifest]] = deque()
        self._handling = False

    async def run(self) -> BaseException:
        """Watch until an error occurs; returns the error."""
        threading.Thread(target=self._thread, name=f"watch of {self._namespace or 'the cluster'}", daemon=True).start()
        try:
            return await asyncio.shield(self._ended)
        finally:
            self._stopping = True
            if self._stop:
                self._stop()
            await asyncio.wait((self._ended,), timeout=_KOPF_SHUTDOWN_TIMEOUT)

    def _thread(self) -> None:
        ended: BaseException = RuntimeError("kopf exited")
        try:
            asyncio.run(self._watch())
        except BaseException as error:
            ended = error
        self._in_loop(self._end, ended)

    def _end(self, error: BaseException) -> None:
        self._stop = None
        if not self._ended.done():
            self._ended.set_result(error)

    async def _watch(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        # Ignore errors of tasks that kopf leaves behind after a failure; `_keep_watched` logs the cause once.
        loop.set_exception_handler(lambda *_: None)

        def stop_from_outside() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

        self._stop = stop_from_outside
        if self._stopping:
            return
        await kopf.operator(
            registry=controller.registry(self._hand_over),
            settings=controller.kopf_settings(),
            standalone=True,
            clusterwide=self._namespace is None,
            namespaces=[self._namespace] if self._namespace else [],
            stop_flag=stop,
        )

    def _hand_over(self, event: str, found: Manifest) -> None:
        """Queue an event. The other event loop is woken once for all events that are waiting, not for each."""
        self._events.append((event, found))
        if not self._handling:
            self._handling = True
            self._in_loop(self._handle_events)

    def _handle_events(self) -> None:
        # Reset before the events are handled, so that an event that arrives afterwards wakes the event loop again.
        self._handling = False
        while self._events:
            controller.on_event(*self._events.popleft(), self._runtime)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        # The loop is closed when the process ends.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)


def allow_deep_json() -> None:
    """Let Python's JSON parser accept every object that the API server accepts, up to 10,000 levels deep.

    Otherwise a single status with 1,000 levels would make the whole list and watch fail.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 25_000))
