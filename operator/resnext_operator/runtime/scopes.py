"""What is listed and watched: every kind in each namespace, each on its own, so that a failure of one stops no other.

kopf's watch ends as a whole when one of its requests is refused, and its end cancels all other tasks of its event loop.
So each namespace has a kopf of its own, in a thread of its own.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import kopf

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
"""What passes by itself, and is logged in one line; anything else is a mistake of ours, logged with its traceback."""

_FIRST_DELAY, _LAST_DELAY, _LAST_DELAY_UNREADABLE = 1.0, 15.0, 60.0

# kopf lets the handlers of what it has seen end, which are ours and short.
_KOPF_SHUTDOWN_TIMEOUT = 5.0

# Refused because the namespace, or the operator's Role in it, is not there.
_UNREADABLE = (403, 404)

Namespace = str | None
"""None is the whole cluster."""


class Scopes:
    """The lists of all kinds in all namespaces."""

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
        """Whether everything in a namespace was listed: a pod that is not known yet would be created again."""
        return self._knows(namespace if self._runtime.settings.namespaces else None)

    def _knows(self, namespace: Namespace) -> bool:
        return all((kind, namespace) in self._listed for kind in controller.WATCHED)

    def ready(self) -> bool:
        """Whether every list was tried, and a namespace was listed or is not there."""
        answered = any(self._knows(namespace) or namespace in self._unreadable for namespace in self._namespaces)
        self._ready = self._ready or (answered and len(self._tried) == len(self._all))
        return self._ready

    async def until(self, holds: Callable[[], bool]) -> None:
        async with self._progress:
            await self._progress.wait_for(holds)

    def start_over(self) -> None:
        """List everything again before anything is decided: a watch that was broken may have missed something."""
        self._round += 1
        self._listed.clear()
        for due in self._due.values():
            due.set()

    async def run(self) -> None:
        """List and watch, for ever."""
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
            # Only the leader needs what a broken watch has missed; a list that failed is tried again by every replica.
            with suppress(TimeoutError):
                await asyncio.wait_for(due.wait(), pause if failures or self._runtime.metrics.leading else None)

    async def _list(self, kind: str, namespace: Namespace) -> None:
        """One list; the trainings that it changes something for are queued."""
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
            _log.info("namespace %s can be read again", namespace)
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
                message = (
                    "namespace %s is left alone until it can be read: create it, and the operator's Role in it (%s)"
                )
                _log.info(message, namespace, describe_error(error))
        elif self._repeats.first((kind, namespace, describe_error(error))):
            unexpected = None if isinstance(error, TRANSIENT_ERRORS) else error
            _log.warning("list failed: %s %s, retrying: %s", kind, where, describe_error(error), exc_info=unexpected)

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
                _log.warning("the watch %s ended, starting it again: %s", where, describe_error(error))
            # Whether it is still there, and what has changed meanwhile.
            for kind in controller.WATCHED:
                self._due[kind, namespace].set()
            await asyncio.sleep(exponential_delay(_FIRST_DELAY, _LAST_DELAY, failures))


class _Kopf:
    """One kopf in a thread; what it sees is handled in the event loop that it was made in."""

    def __init__(self, runtime: Runtime, namespace: Namespace) -> None:
        self._runtime, self._namespace = runtime, namespace
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[BaseException] = self._loop.create_future()
        self._stop: Callable[[], object] | None = None
        self._stopping = False

    async def run(self) -> BaseException:
        """Watch until that fails; returns why."""
        threading.Thread(target=self._thread, name=f"watch of {self._namespace or 'the cluster'}", daemon=True).start()
        try:
            return await asyncio.shield(self._ended)
        finally:
            self._stopping = True
            if self._stop:
                self._stop()
            await asyncio.wait((self._ended,), timeout=_KOPF_SHUTDOWN_TIMEOUT)

    def _thread(self) -> None:
        ended: BaseException = RuntimeError("kopf ended by itself")
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
        # Tasks that kopf leaves behind when one of them has failed: why it ended is logged once, by `_keep_watched`.
        loop.set_exception_handler(lambda *_: None)

        def stop_from_outside() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

        self._stop = stop_from_outside
        if self._stopping:
            return
        runtime = self._runtime
        await kopf.operator(
            registry=controller.registry(
                lambda *event: self._in_loop(controller.on_event, *event, runtime), runtime.guard
            ),
            settings=controller.kopf_settings(),
            standalone=True,
            clusterwide=self._namespace is None,
            namespaces=[self._namespace] if self._namespace else [],
            stop_flag=stop,
        )

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        # The loop is closed when the process ends.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)


def allow_deep_json() -> None:
    """Let Python's JSON parser take every object that the API server takes, which ends at 10,000 levels.

    Else one status that nests 1,000 levels deep could neither be listed nor watched, and with it no other object.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 25_000))
