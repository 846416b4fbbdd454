"""The operator process against a fake API server: a failing namespace or kind does not affect the others."""

import asyncio
import logging
import signal

import pytest

from resnext_operator.runtime import controller, scopes
from tests.support.fake_api import ApiServer
from tests.support.fake_client import Server
from tests.support.operator_process import operator, training
from tests.support.runtime import runtime_on


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(scopes, "_FIRST_DELAY", 0.05)
    monkeypatch.setattr(scopes, "_LAST_DELAY", 0.2)
    monkeypatch.setattr(scopes, "_LAST_DELAY_UNREADABLE", 0.2)
    logging.getLogger("kopf").setLevel(logging.CRITICAL)


def test_missing_namespace_is_retried_and_others_served(tmp_path, monkeypatch, caplog):
    """A namespace that answers 403 is logged once, and served when it exists."""
    caplog.set_level(logging.INFO, "resnext_operator")

    async def scenario():
        server = ApiServer("one")
        server.put(training("one"))
        async with operator(server, tmp_path, monkeypatch, ("one", "gone")) as it:
            await it.ready()
            await it.serves("one")
            refused = len(server.refusals)
            await it.until(lambda: len(server.refusals) > refused + 10, "tries in the other namespace")
            server.put(training("one", "trees"))
            await it.serves("one", "trees")
            lines = [each.getMessage() for each in caplog.records if "gone" in each.getMessage()]
            assert len(lines) == 1, lines
            assert "is not readable" in lines[0]
            server.namespaces.add("gone")
            server.put(training("gone"))
            await it.serves("gone")
            server.put(training("gone", "late"))
            await it.serves("gone", "late")

    asyncio.run(scenario())


def test_namespace_deleted_while_watched_is_dropped(tmp_path, monkeypatch, caplog):
    """Other watches and the process continue."""
    caplog.set_level(logging.INFO, "resnext_operator")

    async def scenario():
        server = ApiServer("one", "two")
        server.put(training("one"))
        server.put(training("two"))
        async with operator(server, tmp_path, monkeypatch, ("one", "two")) as it:
            for namespace in ("one", "two"):
                await it.serves(namespace)
            await it.until(lambda: all(server.watches.get((name, "pods")) for name in ("one", "two")), "watches")
            server.namespaces.discard("two")
            server.objects = {path: each for path, each in server.objects.items() if "/two/" not in path}
            server.end_watches("two")
            await it.until(
                lambda: any("namespace two is not readable" in each.getMessage() for each in caplog.records), "left"
            )
            server.put(training("one", "trees"))
            await it.serves("one", "trees")
            _, text = await it.get("/metrics")
            assert 'resnext_operator_trainings{phase="Pending"} 2.0' in text, "only those of namespace one"
            server.namespaces.add("two")
            server.put(training("two", "again"))
            await it.serves("two", "again")

    asyncio.run(scenario())


def test_closed_watches_are_restarted(tmp_path, monkeypatch):
    """No event is missed when a watch connection closes."""

    async def scenario():
        server = ApiServer("one")
        async with operator(server, tmp_path, monkeypatch, ("one",)) as it:
            await it.until(lambda: server.watches.get(("one", "resnexttrainings")), "a watch")
            server.end_watches()
            server.put(training("one"))
            await it.serves("one")

    asyncio.run(scenario())


def test_kind_that_cannot_be_listed_blocks_its_namespace(tmp_path, monkeypatch):
    """Nothing is reconciled there before all kinds are listed."""

    async def scenario():
        server = ApiServer("one")
        server.put(training("one"))
        server.failing.add("networkpolicies")
        async with operator(server, tmp_path, monkeypatch, ("one", "gone")) as it:
            await it.ready()
            await asyncio.sleep(0.5)
            assert not server.of("one", "configmaps")
            server.failing.clear()
            await it.serves("one")

    asyncio.run(scenario())


def test_malformed_status_blocks_no_other_training(tmp_path, monkeypatch):
    """A status nested 5,000 levels deep ends no list or watch and is replaced."""

    def deep(levels):
        status: dict[str, object] = {}
        for _ in range(levels):
            status = {"x": status}
        return status

    async def scenario():
        server = ApiServer("one")
        server.put(training("one", "deep", status=deep(2000)))
        server.put(training("one", "odd", status={"phase": ["x"], "conditions": "x", "attempts": [{}], "progress": 3}))
        server.put(training("one", "trees"))
        async with operator(server, tmp_path, monkeypatch, ("one",)) as it:
            for name in ("deep", "odd", "trees"):
                await it.serves("one", name)
            await it.until(lambda: server.watches.get(("one", "resnexttrainings")), "a watch")
            server.put(training("one", "late", status=deep(2000)))
            server.put(training("one", "last"))
            for name in ("late", "last"):
                await it.serves("one", name)

            def clean():
                statuses = [each.get("status", {}) for each in server.of("one", "resnexttrainings")]
                return all(status.get("phase") == "Pending" and "x" not in status for status in statuses)

            await it.until(clean, "all statuses rewritten")
            assert (await it.get("/metrics"))[0] == 200

    asyncio.run(scenario())


def test_sigterm_exits_with_0_and_releases_lease(tmp_path, monkeypatch):
    """All watches end within seconds."""

    async def scenario():
        server = ApiServer("one")
        async with operator(server, tmp_path, monkeypatch, ("one", "gone")) as it:
            await it.until(lambda: server.watches.get(("one", "pods")), "a watch")
            await it.until(lambda: server.of("system", "leases"), "a lease")
            signal.raise_signal(signal.SIGTERM)
            assert await asyncio.wait_for(it.task, 10) == 0
            assert server.of("system", "leases")[0]["spec"]["holderIdentity"] == ""

    asyncio.run(scenario())


def test_events_of_watch_wake_the_loop_once(monkeypatch):
    """All events are handled in their order; one that arrives while others are handled is not left behind."""
    handled = []

    async def scenario():
        watch = scopes._Kopf(runtime_on(Server()), None)
        wakes = []

        def handle(event, found, _):
            handled.append((event, found["number"]))
            if found["number"] == 2:
                watch._hand_over("MODIFIED", {"number": 4})

        monkeypatch.setattr(controller, "on_event", handle)
        monkeypatch.setattr(watch, "_in_loop", lambda call: wakes.append(call))
        for number in range(4):
            watch._hand_over("ADDED", {"number": number})
        assert len(wakes) == 1
        wakes.pop()()
        # The late event may have been handled already, but the loop is woken for it.
        assert len(wakes) == 1
        wakes.pop()()
        assert not wakes

    asyncio.run(scenario())
    assert handled == [*(("ADDED", number) for number in range(4)), ("MODIFIED", 4)]
