"""Leader election: one replica leads, and a leader that cannot renew stops before its lease expires."""

import asyncio

import pytest

from resnext_operator.api.objects import Manifest
from resnext_operator.runtime import leader_election as module
from resnext_operator.runtime.client import ApiError
from resnext_operator.runtime.leader_election import Leader, LeadershipLost
from resnext_operator.runtime.settings import Settings


class Server:
    """A fake API server that rejects writes with an outdated resourceVersion."""

    def __init__(self):
        self.lease: Manifest | None = None
        self.version, self.down, self.silent = 0, False, False
        self.unanswered = 0
        """Number of writes that are stored without a response."""

    @property
    def holder(self):
        return self.lease["spec"]["holderIdentity"] if self.lease else None

    async def request(self, verb, _path, body=None, **_):
        if self.down:
            raise ApiError(503, "down")
        if verb == "GET":
            if self.lease is None:
                raise ApiError(404, "not found")
            return self.lease
        if verb == "POST" and self.lease is not None:
            raise ApiError(409, "already exists")
        stored = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if verb == "PUT" and body["metadata"]["resourceVersion"] != stored:
            raise ApiError(409, "outdated")
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        if self.silent:
            await asyncio.sleep(60)
        if self.unanswered:
            self.unanswered -= 1
            raise TimeoutError
        return self.lease


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    # On a busy machine, an iteration of the event loop may take tenths of a second.
    monkeypatch.setattr(module, "_RENEW", 0.02)
    monkeypatch.setattr(module, "_DEADLINE", 0.8)
    monkeypatch.setattr(module, "LEASE_DURATION", 1.6)


def replica(server, name):
    return Leader(server, Settings(identity=name))


def test_second_replica_leads_after_first_releases():
    """The second replica acquires the lease as soon as the first one releases it."""

    async def scenario():
        server = Server()
        first, second = replica(server, "a"), replica(server, "b")
        await first.acquire()
        keeping = asyncio.create_task(first.renew_loop())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0.2)
        assert first.leading
        assert not second.leading
        keeping.cancel()
        await asyncio.wait((keeping,))
        await first.release()
        await asyncio.wait_for(waiting, 1.4)  # before the lease would expire
        assert second.leading

    asyncio.run(scenario())


def test_leader_without_renewal_is_replaced():
    """Another replica acquires the expired lease, and the first one detects that it lost leadership."""

    async def scenario():
        server = Server()
        first, second = replica(server, "a"), replica(server, "b")
        await first.acquire()
        await asyncio.wait_for(second.acquire(), 20)
        with pytest.raises(LeadershipLost, match="acquired by another replica"):
            await first.renew_loop()

    asyncio.run(scenario())


def test_leader_goes_on_after_renewal_without_answer():
    """A stored renewal without a response makes the resourceVersion of the next renewal outdated."""

    async def scenario():
        server = Server()
        first = replica(server, "a")
        await first.acquire()
        server.unanswered = 1
        renewing = asyncio.create_task(first.renew_loop())
        async with asyncio.timeout(20):
            while server.unanswered or server.version < 5:
                assert not renewing.done()
                await asyncio.sleep(0.01)
        renewing.cancel()
        assert (server.holder, first.leading) == ("a", True)

    asyncio.run(scenario())


def test_leader_stops_before_lease_expires_if_renewal_fails():
    """The renew deadline is shorter than the lease."""

    async def scenario():
        server = Server()
        first = replica(server, "a")
        await first.acquire()
        server.down = True
        with pytest.raises(LeadershipLost, match="could not be renewed"):
            await asyncio.wait_for(first.renew_loop(), 20)

    asyncio.run(scenario())


def test_release_after_lost_leadership_leaves_lease():
    """A replica that lost leadership does not clear holderIdentity."""

    async def scenario():
        server = Server()
        first = replica(server, "a")
        await first.acquire()
        server.down = True
        with pytest.raises(LeadershipLost, match="503: down"):
            await first.renew_loop()
        await first.release()
        assert server.holder == "a"

    asyncio.run(scenario())


def test_release_after_cancelled_renewal_clears_lease():
    """The API server stored the renewal, and the replica was stopped before the response."""

    async def scenario():
        server = Server()
        first = replica(server, "a")
        await first.acquire()
        server.silent, version = True, server.version
        renewing = asyncio.create_task(first.renew_loop())
        while server.version == version:
            await asyncio.sleep(0.01)
        renewing.cancel()
        await asyncio.wait((renewing,))
        server.silent = False
        await first.release()
        assert server.holder == ""

    asyncio.run(scenario())


def test_release_leaves_lease_of_other_replica():
    """Another replica acquired the lease, and this one has not detected it yet."""

    async def scenario():
        server = Server()
        first = replica(server, "a")
        await first.acquire()
        await asyncio.wait_for(replica(server, "b").acquire(), 20)
        await first.release()
        assert server.holder == "b"

    asyncio.run(scenario())


def test_failed_release_is_logged(caplog):
    """The lease then expires by itself."""

    async def scenario():
        server = Server()
        first = replica(server, "a")
        await first.acquire()
        server.down = True
        await first.release()

    asyncio.run(scenario())
    assert "could not be released" in caplog.text
