"""The operator process against a fake API server: startup, leadership and shutdown."""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from resnext_operator.api.objects import TrainingKey
from resnext_operator.runtime import app, controller, leader_election, scopes, workqueue
from resnext_operator.runtime.client import PATHS, path_of
from resnext_operator.runtime.controller import Runtime
from resnext_operator.runtime.event_recorder import EventRecorder
from tests.support.fake_api import ApiServer
from tests.support.operator_process import LEASES, Operator, config_map, operator, training

Start = Callable[..., AbstractAsyncContextManager[Operator]]

LEASE = path_of("Lease", LEASES, "resnext-operator")
DISCOVERY = f"/{PATHS['ResNeXtTraining'][0]}"


def lease(holder: str) -> dict[str, Any]:
    """The Lease as another replica writes it."""
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 15}
    return {"kind": "Lease", "metadata": {"namespace": LEASES, "name": "resnext-operator"}, "spec": spec}


def created(server: ApiServer, namespace: str) -> int:
    """Number of requests to create an object in a namespace."""
    return sum(verb == "POST" and f"/namespaces/{namespace}/" in path for verb, path in server.requests)


def holder(server: ApiServer) -> str | None:
    """Holder of the Lease; None if there is none."""
    found = server.objects.get(LEASE)
    return str(found["spec"]["holderIdentity"]) if found else None


async def more_reconciliations(it: Operator, number: int) -> None:
    """Wait for a number of further reconciliations; fails after 10 s."""
    count = "resnext_operator_reconcile_duration_seconds_count"
    before = await it.metric(count) or 0
    async with asyncio.timeout(10):
        while (await it.metric(count) or 0) < before + number:
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all delays to hundredths of a second."""
    monkeypatch.setattr(scopes, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(scopes, "_LAST_DELAY", 0.05)
    monkeypatch.setattr(scopes, "_KOPF_SHUTDOWN_TIMEOUT", 0.2)
    monkeypatch.setattr(leader_election, "_RENEW", 0.05)
    monkeypatch.setattr(workqueue, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(app, "_CRD_RETRY_SECONDS", 0.02)
    logging.getLogger("kopf").setLevel(logging.CRITICAL)


@pytest.fixture
def server() -> ApiServer:
    return ApiServer("one")


@pytest.fixture
def start(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the operator, by default for one namespace."""

    def started(namespaces: tuple[str, ...] = ("one",), **settings: Any) -> AbstractAsyncContextManager[Operator]:
        return operator(
            server, tmp_path, monkeypatch, namespaces, min_reconcile_interval_seconds=0, identity="us", **settings
        )

    return started


class TestStart:
    @pytest.mark.parametrize(("code", "reason"), [(404, "does not serve"), (503, "503: no such")])
    def test_run_without_crd_waits_for_it(
        self, server: ApiServer, start: Start, caplog: pytest.LogCaptureFixture, code: int, reason: str
    ) -> None:
        """The process is alive but not ready, and lists nothing before the CRD is installed."""
        server.discovery = code
        server.put(training("one"))

        async def scenario() -> None:
            async with start() as it:
                await it.answers("/healthz")
                await it.until(lambda: len(server.requests) > 3, "more requests for the CRD")
                assert (await it.get("/readyz"))[0] == 503
                assert set(server.requests) == {("GET", DISCOVERY)}
                assert reason in caplog.text
                server.discovery = 200
                await it.serves("one")

        asyncio.run(scenario())

    def test_run_sigterm_before_crd_exits_with_0(
        self, server: ApiServer, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait for the resource ends at once."""
        monkeypatch.setattr(app, "_CRD_RETRY_SECONDS", 60)
        server.discovery = 404

        async def scenario() -> None:
            async with start() as it:
                await it.until(lambda: server.requests, "the request for the CRD")
                signal.raise_signal(signal.SIGTERM)
                assert await it.exit_code(2) == 0
                assert holder(server) is None

        asyncio.run(scenario())

    def test_run_candidate_only_after_all_kinds_are_listed(self, server: ApiServer, start: Start) -> None:
        """A replica that cannot list must not lead; it is not ready either."""
        server.failing.add("networkpolicies")

        async def scenario() -> None:
            async with start() as it:
                policies = ("LIST", path_of("NetworkPolicy", "one"))
                await it.until(lambda: server.requests.count(policies) > 3, "more tries to list")
                assert (await it.get("/readyz"))[0] == 503
                assert holder(server) is None
                server.failing.clear()
                await it.until(lambda: holder(server) == "us", "the Lease")
                await it.ready()

        asyncio.run(scenario())

    def test_run_new_leader_lists_again_before_it_writes(self, server: ApiServer, start: Start) -> None:
        """The previous leader may have written after this replica's first list."""
        server.put(training("one"))

        async def scenario() -> None:
            async with start() as it:
                await it.serves("one")

        asyncio.run(scenario())
        requests = server.requests
        leads = requests.index(("POST", path_of("Lease", LEASES)))
        written = requests.index(("POST", path_of("ConfigMap", "one")))
        for kind in controller.WATCHED:
            lists = [number for number, each in enumerate(requests) if each == ("LIST", path_of(kind, "one"))]
            assert lists[0] < leads, kind
            assert any(leads < number < written for number in lists), kind

    def test_run_standby_watches_and_takes_over(self, server: ApiServer, start: Start) -> None:
        """The standby is ready, and writes nothing and exports no series of trainings until the Lease is released."""
        server.put(training("one"))
        server.put(lease("other"))

        async def scenario() -> None:
            async with start() as it:
                await it.ready()
                await it.until(lambda: server.requests.count(("GET", LEASE)) > 3, "more reads of the Lease")
                assert server.writes == []
                assert await it.metric("leader_election_master_status") == 0
                assert await it.metric("resnext_operator_trainings") is None
                server.put(lease(""))
                await it.serves("one")
                assert holder(server) == "us"
                assert await it.metric("leader_election_master_status") == 1

        asyncio.run(scenario())


class TestWork:
    @pytest.mark.parametrize("failure", ["server", "mistake"])
    def test_worker_survives_failing_training(
        self,
        server: ApiServer,
        start: Start,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        failure: str,
    ) -> None:
        """The only worker continues with other trainings, counts and retries. Bugs are logged with a traceback."""
        real, failing = controller.reconcile, {"bad"}

        async def reconcile(key: TrainingKey, runtime: Runtime) -> None:
            if key[1] in failing:
                raise KeyError("a mistake")
            await real(key, runtime)

        if failure == "server":
            server.broken.add("bad-config")
        else:
            monkeypatch.setattr(controller, "reconcile", reconcile)
        server.put(training("one", "bad"))
        server.put(training("one", "good"))

        async def scenario() -> None:
            async with start(max_concurrent_reconciles=1) as it:
                await it.serves("one", "good")
                assert config_map("one", "bad") not in server.objects
                assert (await it.metric("resnext_operator_reconcile_errors_total") or 0) >= 1
                server.broken.clear()
                failing.clear()
                await it.serves("one", "bad")

        asyncio.run(scenario())
        (line,) = (each for each in caplog.records if "one/bad: retrying in" in each.getMessage())
        assert ("cannot create bad-config" if failure == "server" else "a mistake") in line.getMessage()
        assert bool(line.exc_info) == (failure == "mistake")

    def test_slow_namespace_delays_no_other(self, server: ApiServer, start: Start) -> None:
        """Requests in one namespace hang for longer than the test runs; another namespace is still reconciled."""
        server.namespaces.add("two")
        server.slow["one"] = 60.0
        for number in range(12):
            body = training("one", f"slow-{number}")
            # Trainings with equal pods would wait for one dry run.
            server.put({**body, "spec": {**body["spec"], "image": f"trainer:{number}"}})

        async def scenario() -> None:
            limits = {"max_concurrent_reconciles": 4, "max_concurrent_reconciles_per_namespace": 3}
            limits |= {"max_api_connections": 4, "max_api_connections_per_namespace": 2}
            async with start(namespaces=("one", "two"), **limits) as it:
                await it.until(lambda: created(server, "one") >= 2, "requests in the slow namespace")
                for name in ("a", "b"):
                    server.put(training("two", name))
                    await it.serves("two", name)
                assert created(server, "one") == 2, "at most 2 concurrent requests (max_api_connections_per_namespace)"

        asyncio.run(scenario())

    def test_resync_reconciles_without_events(self, server: ApiServer, start: Start) -> None:
        """Deadlines pass without an event."""
        server.put(training("one"))

        async def scenario() -> None:
            async with start(resync_seconds=0.1) as it:
                await it.serves("one")
                await more_reconciliations(it, 5)
                written = len(server.writes)
                await more_reconciliations(it, 5)
                assert {where for _, where in server.writes[written:]} <= {LEASE}

        asyncio.run(scenario())

    def test_relist_retried_until_it_finds_missed_object(self, server: ApiServer, start: Start) -> None:
        """A silently broken watch missed a training, and the list fails temporarily."""

        async def scenario() -> None:
            async with start(relist_seconds=0.1) as it:
                await it.until(lambda: holder(server) == "us", "the Lease")
                await it.until(lambda: server.watches.get(("one", "resnexttrainings")), "a watch")
                server.failing.add("resnexttrainings")
                server.put(training("one"), notify=False)
                lists = ("LIST", path_of("ResNeXtTraining", "one"))
                tried = server.requests.count(lists)
                await it.until(lambda: server.requests.count(lists) > tried + 3, "more tries to list")
                assert config_map("one") not in server.objects
                server.failing.clear()
                await it.serves("one")

        asyncio.run(scenario())


class TestEnd:
    def test_run_sigterm_releases_lease_after_last_write(self, server: ApiServer, start: Start) -> None:
        """The next leader must not race with writes of this one."""
        for number in range(12):
            server.put(training("one", f"flowers-{number}"))

        async def scenario() -> None:
            async with start() as it:
                await it.until(lambda: server.of("one", "configmaps"), "the first of many writes")
                signal.raise_signal(signal.SIGTERM)
                assert await it.exit_code() == 0

        asyncio.run(scenario())
        assert holder(server) == ""
        assert [each for each in server.requests if each[0] in ("POST", "PUT", "PATCH", "DELETE")][-1] == ("PUT", LEASE)

    def test_run_lost_lease_exits_with_1(
        self, server: ApiServer, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One line is logged, without a traceback. The other replica keeps the Lease; the HTTP server is stopped."""

        async def scenario() -> None:
            async with start() as it:
                await it.until(lambda: holder(server) == "us", "the Lease")
                server.put(lease("other"))
                assert await it.exit_code() == 1
                assert await it.get("/healthz") == (0, "")

        asyncio.run(scenario())
        lines = [(each.getMessage(), each.exc_info) for each in caplog.records if each.levelno >= logging.ERROR]
        assert lines == [("lease resnext-operator was acquired by another replica", None)]
        assert holder(server) == "other"

    def test_run_failed_loop_exits_with_1_and_traceback(
        self, server: ApiServer, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If a main loop fails, the process exits, and another replica can lead immediately."""

        async def broken(_: EventRecorder) -> None:
            raise KeyError("a mistake")

        monkeypatch.setattr(EventRecorder, "run", broken)

        async def scenario() -> None:
            async with start() as it:
                assert await it.exit_code() == 1

        asyncio.run(scenario())
        (line,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
        assert line.getMessage() == "exiting after an error"
        assert line.exc_info is not None
        assert isinstance(line.exc_info[1], ExceptionGroup)
        assert holder(server) == ""
