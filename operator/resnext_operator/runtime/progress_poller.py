"""Polls the progress of running trainings from worker 0.

Workers run user images, so responses are untrusted: they may have any content and any length.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import aiohttp
from pydantic import ValidationError

from resnext_operator.api.objects import TrainingKey
from resnext_operator.api.pod_template import GPU
from resnext_operator.rendering import names
from resnext_operator.runtime.cache import PODS, Cache
from resnext_operator.runtime.cached_objects import (
    CachedObject,
    PodStatus,
    TrainingSpec,
    TrainingWorkers,
    WorkerResources,
)
from resnext_operator.runtime.client import describe_error
from resnext_operator.runtime.guard import Guard, Repeats
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.unstructured import dictionary, fields, has_ended, key_of, training_of, word
from resnext_operator.runtime.workqueue import WorkQueue
from resnext_trainer.contract import Progress

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0
_ANSWER_BYTES = 65_536

# If rank 0 reports no new step for 20 s, all ranks are polled, at most once per minute.
_QUIET_SECONDS, _ROUND_SECONDS = 20.0, 60.0

_MAX_SLOTS = 16

# Concurrent polls per training, so that a training with 4,096 ranks does not delay the others.
_RANKS_AT_ONCE = 16


class TooLong(Exception):
    """A response is longer than any valid one."""


class RateLimiter:
    """Limits the rate of all callers together; each waits for its turn."""

    def __init__(self, per_second: float) -> None:
        self._between, self._next = 1.0 / per_second, 0.0

    async def acquire(self) -> None:
        now = time.monotonic()
        self._next = max(self._next + self._between, now)
        await asyncio.sleep(self._next - now)


@dataclass
class _PollState:
    """Progress of one training and the times of its polls."""

    progress: Progress
    since: float
    """When its progress last changed."""
    last_poll_of_all: float = 0.0
    """When all ranks were last polled."""
    last_steps: dict[int, int | None] = field(default_factory=dict)


class ProgressPoller:
    """Latest progress of every training, and of every rank if a training does not progress."""

    def __init__(self, cache: Cache, queue: WorkQueue, settings: Settings, guard: Guard | None = None) -> None:
        self._cache, self._queue, self._settings = cache, queue, settings
        self._guard = guard or Guard()
        self._repeats = Repeats()
        self._pace = RateLimiter(settings.max_progress_polls_per_second)
        self._states: dict[TrainingKey, _PollState] = {}
        self._polling: set[TrainingKey] = set()

    def latest(self, key: TrainingKey) -> Progress | None:
        state = self._states.get(key)
        return state.progress if state else None

    def last_steps(self, key: TrainingKey) -> Mapping[int, int | None]:
        """Last step of each rank, None for a rank that did not respond; empty while the training progresses."""
        state = self._states.get(key)
        return state.last_steps if state else {}

    async def run(self) -> None:
        """Poll all running trainings until cancelled. Ranks that respond slowly do not delay other trainings."""
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS),
                # No cookies and no decompression bombs.
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            while True:
                running = self._running()
                for stopped in self._states.keys() - running.keys():
                    del self._states[stopped]
                for key in running.keys() - self._polling:
                    self._polling.add(key)
                    group.create_task(self._poll_and_release(session, key, running[key]))
                await asyncio.sleep(self._settings.progress_poll_interval_seconds)

    def _running(self) -> dict[TrainingKey, dict[int, str]]:
        """The trainings that can be polled, with the addresses of their workers."""
        running = {}
        for training in self._cache.trainings():
            if has_ended(training):
                continue
            key = key_of(training)
            with self._guard.each("progress", key):
                if addresses := self._addresses(key):
                    running[key] = addresses
        return running

    def _addresses(self, key: TrainingKey) -> dict[int, str]:
        """Address of each running worker; empty unless a launcher and worker 0 are running."""
        training = self._cache.training(key)
        children = self._cache.children(training, ()) if training else []
        found, launched = {}, False
        for pod in children:
            if pod["kind"] == PODS and training_of(pod) == key and _runs(pod):
                name = names.pod(key[1], pod["metadata"]["name"])
                launched |= name is not None and name.role == "launcher"
                if name and name.role == "worker" and (address := _address(pod)):
                    found[name.number] = address
        return found if launched and 0 in found else {}

    async def _poll_and_release(
        self, session: aiohttp.ClientSession, key: TrainingKey, addresses: dict[int, str]
    ) -> None:
        try:
            with self._guard.each("progress", key):
                await self._poll_training(session, key, addresses)
        finally:
            self._polling.discard(key)

    async def _poll_training(self, session: aiohttp.ClientSession, key: TrainingKey, addresses: dict[int, str]) -> None:
        """Poll worker 0, and all ranks if its progress has not changed for a while."""
        progress = await self._fetch(session, key, addresses[0], names.METRICS_PORT)
        now, state = time.monotonic(), self._states.get(key)
        if progress and (state is None or progress.without_times() != state.progress.without_times()):
            self._states[key] = _PollState(progress, since=now)
            self._queue.add(key)
        elif state and now - state.since > _QUIET_SECONDS and now - state.last_poll_of_all > _ROUND_SECONDS:
            state.last_poll_of_all = now
            state.last_steps = await self._fetch_all_ranks(session, key, addresses)

    async def _fetch_all_ranks(
        self, session: aiohttp.ClientSession, key: TrainingKey, addresses: dict[int, str]
    ) -> dict[int, int | None]:
        slots, turns = self._ranks_per_worker(key), asyncio.Semaphore(_RANKS_AT_ONCE)

        async def step(address: str, port: int) -> int | None:
            async with turns:
                answer = await self._fetch(session, key, address, port)
            return answer.step if answer else None

        ports = {
            worker * slots + local: (address, names.METRICS_PORT + local)
            for worker, address in addresses.items()
            for local in range(slots)
        }
        return dict(zip(ports, await asyncio.gather(*(step(*where) for where in ports.values())), strict=True))

    def _ranks_per_worker(self, key: TrainingKey) -> int:
        training = self._cache.training(key)
        spec = fields(TrainingSpec, training.get("spec") if training else None)
        workers = fields(TrainingWorkers, spec.get("workers"))
        gpus = dictionary(fields(WorkerResources, workers.get("resources")).get("limits")).get(GPU, 1)
        return min(max(1, int(workers.get("slots") or gpus)), _MAX_SLOTS)

    async def _fetch(
        self, session: aiohttp.ClientSession, key: TrainingKey, address: str, port: int
    ) -> Progress | None:
        await self._pace.acquire()
        host = f"[{address}]" if ":" in address else address
        try:
            # A redirect could reach addresses that the operator may access and the pod may not.
            async with session.get(f"http://{host}:{port}/progress", allow_redirects=False) as answer:
                if answer.status != 200:  # The trainer returns 503 until it has progress to report.
                    return None
                return Progress.model_validate_json(await _read(answer.content))
        except (aiohttp.ClientError, TimeoutError) as error:
            _log.debug("%s/%s: no progress from %s: %s", *key, address, describe_error(error))
        except (TooLong, ValidationError) as error:
            if self._repeats.first((key, address, port)):
                _log.warning("%s/%s: invalid progress from %s: %s", *key, address, str(error)[:500])
        return None


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _ANSWER_BYTES:
            raise TooLong(f"more than {_ANSWER_BYTES} bytes")
    return bytes(body)


def _runs(pod: CachedObject) -> bool:
    return word(fields(PodStatus, pod.get("status")).get("phase")) == "Running"


def _address(pod: CachedObject) -> str:
    """The pod's IP address; empty if it has none."""
    address = word(fields(PodStatus, pod.get("status")).get("podIP"))
    try:
        return str(ip_address(address))
    except ValueError:
        return ""
