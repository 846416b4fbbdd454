"""The operator process. Every replica lists and watches; only the leader reconciles, until it loses the Lease."""

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from resnext_operator.api.groupversion import GROUP, PLURAL, VERSION
from resnext_operator.runtime import controller
from resnext_operator.runtime.admission_check import Admission
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.client import ApiError, KubeClient, connect, describe_error
from resnext_operator.runtime.controller import Runtime
from resnext_operator.runtime.event_recorder import EventRecorder
from resnext_operator.runtime.guard import Repeats
from resnext_operator.runtime.leader_election import Leader, LeadershipLost
from resnext_operator.runtime.metrics import Metrics, serve
from resnext_operator.runtime.progress_poller import ProgressPoller
from resnext_operator.runtime.scopes import TRANSIENT_ERRORS, Scopes, allow_deep_json
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.training_reader import TrainingReader
from resnext_operator.runtime.workqueue import WorkQueue

_log = logging.getLogger(__name__)

_CRD_RETRY_SECONDS = 2.0


async def run(settings: Settings) -> int:
    """Run until a stop signal arrives or a component fails; returns the exit code."""
    allow_deep_json()
    cache = Cache()
    queue = WorkQueue(settings.min_reconcile_interval_seconds, settings.max_concurrent_reconciles_per_namespace)
    metrics = Metrics(cache, queue.__len__)
    async with (
        connect(settings.max_api_connections, metrics.requested, settings.max_api_connections_per_namespace) as cluster,
        connect(1, metrics.requested) as lease_client,
    ):
        guard = metrics.guard
        poller, recorder = ProgressPoller(cache, queue, settings, guard), EventRecorder(cluster, guard)
        reader = TrainingReader(settings.site)
        runtime = Runtime(settings, cluster, cache, queue, poller, recorder, metrics, Admission(cluster), reader, guard)
        leader, scopes = Leader(lease_client, settings), Scopes(runtime)
        server = await serve(metrics, settings.port, scopes.ready)
        stop = _stop_signal()
        tasks: list[asyncio.Task[Any]] = []
        try:
            if not await _wait_for_crd(cluster, stop):
                return 0
            stopped = asyncio.create_task(stop.wait())
            working = asyncio.create_task(_run_as_leader(runtime, leader, scopes))
            watching = asyncio.create_task(scopes.run())
            tasks = [working, watching, stopped]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                if not task.cancelled() and (error := task.exception()):
                    _log_exit_cause(error)
            return 0 if stopped in done else 1
        finally:
            # All writes stop before the Lease is released and another replica may lead.
            for task in tasks[:1]:
                task.cancel()
                await asyncio.wait((task,))
            await leader.release()
            for task in tasks[1:]:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await server.cleanup()


def _log_exit_cause(error: BaseException) -> None:
    """Log a lost Lease in one line, since it is not an error of this replica; log anything else with its traceback."""
    lost = error.subgroup(LeadershipLost) if isinstance(error, BaseExceptionGroup) else None
    if lost:
        _log.error("%s", lost.exceptions[0])
    else:
        _log.error("exiting after an error", exc_info=error)


def _stop_signal() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets. A container's first process has no default action for these signals."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _wait_for_crd(cluster: KubeClient, stop: asyncio.Event) -> bool:
    """Wait for the CRD, because kopf looks for it only once; returns False if a stop signal arrives first."""
    while not stop.is_set():
        try:
            if await _crd_is_installed(cluster):
                return not stop.is_set()
            _log.warning(
                "waiting: the API server does not serve resnexttrainings.%s/%s: apply manifests/crd.yaml, or set "
                "crd.install in the Helm chart; if an earlier version is installed, see docs/upgrading.md",
                GROUP,
                VERSION,
            )
        except TRANSIENT_ERRORS as error:
            _log.warning("cannot check whether the CRD is installed, retrying: %s", describe_error(error))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _CRD_RETRY_SECONDS)
    return False


async def _crd_is_installed(cluster: KubeClient) -> bool:
    """Whether the API server serves the resource yet."""
    try:
        found = await cluster.request("GET", f"/apis/{GROUP}/{VERSION}")
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return any(each["name"] == PLURAL for each in found.get("resources", ()))


async def _run_as_leader(runtime: Runtime, leader: Leader, scopes: Scopes) -> None:
    """Acquire the Lease, list everything again, then reconcile until leadership is lost."""
    await scopes.until(scopes.ready)
    await leader.acquire()
    runtime.metrics.leading = True
    try:
        async with asyncio.TaskGroup() as group:
            # Renewal starts before the lists, so that they cannot delay it.
            group.create_task(leader.renew_loop())
            scopes.start_over()
            for loop in (
                *(_worker(runtime, scopes) for _ in range(runtime.settings.max_concurrent_reconciles)),
                *_loops(runtime),
            ):
                group.create_task(loop)
    finally:
        runtime.metrics.leading = False


def _loops(runtime: Runtime) -> list[Coroutine[Any, Any, None]]:
    return [_resync(runtime), runtime.poller.run(), runtime.recorder.run()]


async def _worker(runtime: Runtime, scopes: Scopes) -> None:
    """Reconcile keys from the work queue, one at a time."""
    queue, metrics, repeats = runtime.queue, runtime.metrics, Repeats()
    while True:
        key = await queue.get()
        if not scopes.knows(key[0]):
            # The key is queued again once its namespace is listed.
            queue.done(key)
            continue
        started = time.monotonic()
        try:
            await controller.reconcile(key, runtime)
        except Exception as error:
            metrics.errors.inc()
            delay = queue.add_rate_limited(key)
            if repeats.first((key, describe_error(error))):
                unexpected = None if isinstance(error, TRANSIENT_ERRORS) else error
                _log.warning("%s/%s: retrying in %.1f s: %s", *key, delay, describe_error(error), exc_info=unexpected)
        else:
            queue.done(key)
        metrics.reconciled.observe(time.monotonic() - started)


async def _resync(runtime: Runtime) -> None:
    """Queue every training periodically, because deadlines pass without an event.

    Ended trainings that need no reconciliation before their next event are not queued: 1,000 of them would use 1.27 %
    of a core.
    """
    while True:
        for key in runtime.cache.training_keys():
            if key not in runtime.settled:
                runtime.queue.add(key)
        await asyncio.sleep(runtime.settings.resync_seconds)
