"""How far the running trainings are: worker 0 of each is asked now and then."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from pydantic import ValidationError

from resnext_operator import names
from resnext_operator.api import GPU, Key, Manifest
from resnext_operator.cache import PODS, Cache
from resnext_operator.cluster import words
from resnext_operator.settings import Settings
from resnext_operator.workqueue import WorkQueue
from resnext_trainer.report import Progress

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0

# When no step was made for so long, every rank is asked where it is, and again each minute.
_QUIET_SECONDS, _ROUND_SECONDS = 20.0, 60.0


class Pace:
    """At most so many a second, over all who ask; each waits its turn."""

    def __init__(self, per_second: float) -> None:
        self._between, self._next = 1.0 / per_second, 0.0

    async def turn(self) -> None:
        now = time.monotonic()
        self._next = max(self._next + self._between, now)
        await asyncio.sleep(self._next - now)


@dataclass
class _Said:
    """What is known of one training."""

    progress: Progress
    since: float
    """When it last said something new."""
    asked: float = 0.0
    """When every rank was last asked."""
    last_steps: dict[int, int | None] = field(default_factory=dict)


class Watch:
    """The last words of every worker 0, and of every rank where nothing moves."""

    def __init__(self, cache: Cache, queue: WorkQueue, settings: Settings) -> None:
        self._cache, self._queue, self._settings = cache, queue, settings
        self._said: dict[Key, _Said] = {}

    def latest(self, key: Key) -> Progress | None:
        said = self._said.get(key)
        return said.progress if said else None

    def last_steps(self, key: Key) -> Mapping[int, int | None]:
        """The last step of each rank, None for one that did not answer; empty while steps are made."""
        said = self._said.get(key)
        return said.last_steps if said else {}

    async def run(self) -> None:
        """Ask all running trainings each few seconds, for ever."""
        pace = Pace(self._settings.progress_per_second)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS)) as session:
            while True:
                started = time.monotonic()
                running = {key: addresses for key in self._cache.known() if (addresses := self._addresses(key))}
                for stopped in self._said.keys() - running.keys():
                    del self._said[stopped]
                await asyncio.gather(*(self._follow(session, pace, *each) for each in running.items()))
                await asyncio.sleep(max(0.0, self._settings.progress_seconds - (time.monotonic() - started)))

    def _addresses(self, key: Key) -> dict[int, str]:
        """Where each worker answers while a launcher runs, if worker 0 does; empty otherwise."""
        training = self._cache.training(key)
        pods = [pod for pod in self._cache.children(training, ()) if pod["kind"] == PODS] if training else []
        if not any(_label(pod, names.ROLE) == "launcher" for pod in pods if _runs(pod)):
            return {}
        found = {
            int(index): pod["status"].get("podIP", "")
            for pod in pods
            if _runs(pod) and (index := _label(pod, names.WORKER))
        }
        return found if found.get(0) else {}

    async def _follow(self, session: aiohttp.ClientSession, pace: Pace, key: Key, addresses: dict[int, str]) -> None:
        """Ask worker 0, and every rank when it has had nothing new to say for a while."""
        progress = await self._ask(session, pace, key, addresses[0], names.METRICS_PORT)
        now, said = time.monotonic(), self._said.get(key)
        if progress and (said is None or progress != said.progress):
            self._said[key] = _Said(progress, since=now)
            self._queue.add(key)
        elif said and now - said.since > _QUIET_SECONDS and now - said.asked > _ROUND_SECONDS:
            said.asked = now
            said.last_steps = await self._ask_all(session, pace, key, addresses)

    async def _ask_all(
        self, session: aiohttp.ClientSession, pace: Pace, key: Key, addresses: dict[int, str]
    ) -> dict[int, int | None]:
        slots = self._slots(key)
        ports = {
            worker * slots + local: (address, names.METRICS_PORT + local)
            for worker, address in addresses.items()
            for local in range(slots)
        }
        answers = await asyncio.gather(*(self._ask(session, pace, key, *where) for where in ports.values()))
        return {rank: answer.step if answer else None for rank, answer in zip(ports, answers, strict=True)}

    def _slots(self, key: Key) -> int:
        training = self._cache.training(key)
        workers = ((training or {}).get("spec") or {}).get("workers") or {}
        gpus = ((workers.get("resources") or {}).get("limits") or {}).get(GPU, 1)
        return int(workers.get("slots") or gpus)

    async def _ask(
        self, session: aiohttp.ClientSession, pace: Pace, key: Key, address: str, port: int
    ) -> Progress | None:
        await pace.turn()
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{port}/progress") as answer:
                if answer.status != 200:  # Before its first words the trainer answers 503.
                    return None
                return Progress.model_validate_json(await answer.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            _log.debug("%s/%s: no progress from %s: %s", *key, address, words(error))
        except ValidationError as error:
            _log.warning("%s/%s: progress that cannot be read: %s", *key, error)
        return None


def _label(pod: Manifest, label: str) -> str | None:
    return (pod["metadata"].get("labels") or {}).get(label)


def _runs(pod: Manifest) -> bool:
    return bool(pod["status"].get("phase") == "Running")
