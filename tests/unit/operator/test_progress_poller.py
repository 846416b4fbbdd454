"""The poller against HTTP servers that respond like ranks."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.rendering import names
from resnext_operator.runtime import progress_poller
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.progress_poller import ProgressPoller, RateLimiter
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.workqueue import WorkQueue
from tests.support.processes import free_port

KEY = ("lab", "flowers")


def progress(step: int, **more: Any) -> bytes:
    return json.dumps({"attempt": 1, "epoch": 0.5, "epochs": 8, "step": step, "steps": 160, **more}).encode()


@contextmanager
def rank(address: str, port: int, body: bytes, status: int = 200) -> Iterator[list[bytes]]:
    """A server that returns the first item of the list for /progress; tests may replace it."""
    answers = [body]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.2:{port}/progress")
            self.end_headers()
            self.wfile.write(answers[0])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port instead of the fixed port of the ranks."""
    free = free_port()
    monkeypatch.setattr(names, "METRICS_PORT", free)
    return free


def owned(kind: str, name: str, role: str, status: dict[str, Any]) -> dict[str, Any]:
    owner = {"apiVersion": "resnext.dev/v1alpha2", "kind": KIND, "name": KEY[1], "uid": "t1"}
    metadata: Manifest = {"namespace": KEY[0], "name": name, "uid": name, "resourceVersion": "1"}
    metadata["ownerReferences"] = [owner]
    metadata["labels"] = {names.TRAINING: KEY[1], names.ROLE: role}
    return {"kind": kind, "metadata": metadata, "spec": {"nodeName": "n"}, "status": status}


def cache_with(*addresses: str, launcher: str = "Running", slots: int = 1, phase: str = "Running") -> Cache:
    """A training with a worker at each address, and a launcher."""
    cache = Cache()
    metadata = {"namespace": KEY[0], "name": KEY[1], "uid": "t1", "resourceVersion": "1"}
    cache.upsert(
        {"kind": KIND, "metadata": metadata, "spec": {"workers": {"slots": slots}}, "status": {"phase": phase}}
    )
    for number, address in enumerate(addresses):
        cache.upsert(owned("Pod", f"flowers-worker-{number}-0", "worker", {"phase": "Running", "podIP": address}))
    cache.upsert(owned("Pod", "flowers-launcher-1", "launcher", {"phase": launcher}))
    return cache


async def until(seen: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not seen():
            await asyncio.sleep(0.02)


def polled(cache: Cache, seen: Callable[[ProgressPoller], object] | None = None) -> tuple[ProgressPoller, bool]:
    """The poller after it received progress or after some rounds, and whether it queued the training."""

    async def scenario() -> tuple[ProgressPoller, bool]:
        queue = WorkQueue()
        poller = ProgressPoller(cache, queue, Settings(trainer_image="x", progress_poll_interval_seconds=0.1))
        task = asyncio.create_task(poller.run())
        if seen:
            await until(lambda: seen(poller))
        else:
            await asyncio.sleep(0.6)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return poller, len(queue) > 0

    return asyncio.run(scenario())


class TestProgressPoller:
    def test_new_progress_is_kept_and_queues_training(self, port: int) -> None:
        """The response of worker 0 is the training's progress and causes a reconciliation."""
        with rank("127.0.0.1", port, progress(7)):
            poller, queued = polled(cache_with("127.0.0.1"), lambda poller: poller.latest(KEY))
        latest = poller.latest(KEY)
        assert latest is not None
        assert latest.step == 7
        assert queued

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 503),
            (b"{", 200),
            (b"\xff", 200),
            (b'{"step": "x"}', 200),
            (b" " * 70_000 + progress(7), 200),
        ],
        ids=["not ready", "not JSON", "not UTF-8", "wrong type", "too long"],
    )
    def test_unusable_answer_is_not_progress(self, port: int, body: bytes, status: int) -> None:
        """An answer that cannot be parsed leaves the progress unknown."""
        with rank("127.0.0.1", port, body, status):
            poller, queued = polled(cache_with("127.0.0.1"))
        assert poller.latest(KEY) is None
        assert not queued

    def test_redirect_is_not_followed(self, port: int) -> None:
        """A pod could redirect the operator to an address that the pod itself cannot reach."""
        with rank("127.0.0.1", port, b"", status=302), rank("127.0.0.2", port, progress(7)):
            poller, _ = polled(cache_with("127.0.0.1"))
        assert poller.latest(KEY) is None

    @pytest.mark.parametrize(("address", "launcher"), [("127.0.0.1", "Succeeded"), ("localhost", "Running"), ("", "")])
    def test_training_without_launcher_or_address_not_polled(self, port: int, address: str, launcher: str) -> None:
        """A host name in podIP is not resolved: only addresses are polled."""
        with rank("127.0.0.1", port, progress(7)):
            poller, _ = polled(cache_with(address, launcher=launcher))
        assert poller.latest(KEY) is None

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_ended_training_is_not_polled(self, port: int, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        """Not even its pods are read, which would cost most of an idle operator's time with 1,000 ended trainings."""
        read: list[object] = []

        def children(_: Cache, training: object, __: object) -> list[object]:
            read.append(training)
            return []

        monkeypatch.setattr(Cache, "children", children)
        with rank("127.0.0.1", port, progress(7)):
            poller, _ = polled(cache_with("127.0.0.1", phase=phase))
        assert poller.latest(KEY) is None
        assert not read

    def test_quiet_training_has_every_rank_polled(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A rank that does not answer has no last step."""
        monkeypatch.setattr(progress_poller, "_QUIET_SECONDS", 0.1)
        with rank("127.0.0.1", port, progress(7)), rank("127.0.0.2", port, progress(6)):
            steps = {0: 7, 1: 6, 2: None}
            cache = cache_with("127.0.0.1", "127.0.0.2", "127.0.0.3")
            poller, _ = polled(cache, lambda poller: poller.last_steps(KEY) == steps)
        assert poller.last_steps(KEY) == steps

    def test_phase_seconds_alone_are_not_progress(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The seconds of a rank that waits grow; the training still counts as quiet."""
        monkeypatch.setattr(progress_poller, "_QUIET_SECONDS", 0.3)
        with rank("127.0.0.1", port, progress(7)) as answers:

            def seen(poller: ProgressPoller) -> bool:
                answers[0] = progress(7, phaseSeconds={"data_wait": asyncio.get_running_loop().time()})
                return bool(poller.last_steps(KEY))

            poller, _ = polled(cache_with("127.0.0.1"), seen)
        assert poller.last_steps(KEY) == {0: 7}

    def test_slow_training_delays_no_other(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each training is polled in its own task; nothing listens at the address of the slow one."""
        monkeypatch.setattr(progress_poller, "_ANSWER_SECONDS", 30.0)
        cache = cache_with("127.0.0.1")
        other = ("lab", "slow")
        for each in cache_with("192.0.2.1").children({"kind": KIND, "metadata": {**_key(KEY), "uid": "t1"}}, ()):
            renamed = json.loads(json.dumps(each).replace("flowers", "slow").replace('"t1"', '"t2"'))
            cache.upsert(renamed)
        cache.upsert({"kind": KIND, "metadata": {**_key(other), "uid": "t2", "resourceVersion": "1"}, "spec": {}})
        with rank("127.0.0.1", port, progress(7)):
            poller, _ = polled(cache, lambda poller: poller.latest(KEY))
        assert poller.latest(KEY) is not None
        assert poller.latest(other) is None

    def test_stopped_training_is_forgotten(self, port: int) -> None:
        """The poller drops the progress of a training whose launcher has ended."""
        cache = cache_with("127.0.0.1")

        async def scenario() -> tuple[object, object]:
            poller = ProgressPoller(
                cache, WorkQueue(), Settings(trainer_image="x", progress_poll_interval_seconds=0.05)
            )
            task = asyncio.create_task(poller.run())
            await until(lambda: poller.latest(KEY))
            before = poller.latest(KEY)
            cache.upsert(owned("Pod", "flowers-launcher-1", "launcher", {"phase": "Succeeded"}))
            await until(lambda: poller.latest(KEY) is None)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return before, poller.latest(KEY)

        with rank("127.0.0.1", port, progress(7)):
            before, after = asyncio.run(scenario())
        assert before is not None
        assert after is None


def _key(key: tuple[str, str]) -> dict[str, str]:
    return {"namespace": key[0], "name": key[1]}


def test_rate_limiter_spaces_requests() -> None:
    """Five requests at 100 per second take at least 40 ms: the first is immediate."""

    async def scenario() -> float:
        limiter, loop = RateLimiter(100), asyncio.get_running_loop()
        began = loop.time()
        for _ in range(5):
            await limiter.acquire()
        return loop.time() - began

    assert asyncio.run(scenario()) >= 0.039
