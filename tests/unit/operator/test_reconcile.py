"""One training through the real reconciliation, on an API server of a few lines: created whole, and then left alone."""

import asyncio
import copy
from types import SimpleNamespace

import pytest
from model import resource

from resnext_operator import handlers
from resnext_operator.api import Plan, Reference
from resnext_operator.cache import Cache
from resnext_operator.cluster import Cluster, Refused, path_of
from resnext_operator.settings import Settings
from resnext_operator.workqueue import WorkQueue


class Server(Cluster):
    """POST, GET, PUT, DELETE and merge patches of a status, in memory; every write is noted."""

    def __init__(self):
        self.objects, self.writes, self.version = {}, [], 0

    async def request(self, verb, path, body=None, **_):
        if verb != "GET":
            self.writes.append((verb, path))
        if verb == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise Refused(409, "there already")
            body = {**body, "metadata": {**body["metadata"], "uid": f"uid-{path}"}}
        elif (found := self.objects.get(path.removesuffix("/status"))) is None:
            raise Refused(404, "not there")
        elif verb == "PUT":
            body = {**body, "metadata": {**body["metadata"], "uid": found["metadata"]["uid"]}}
        elif verb == "PATCH":
            path = path.removesuffix("/status")
            body = {**found, "status": {**found.get("status", {}), **body["status"]}} if "status" in body else found
        elif verb == "DELETE":
            return self.objects.pop(path)
        else:
            return found
        self.version += 1
        body["metadata"] = {**body["metadata"], "resourceVersion": str(self.version)}
        self.objects[path] = body
        return copy.deepcopy(body)


def test_everything_is_made_once_and_a_policy_of_another_version_is_updated_once():
    async def story():
        server, cache, queue = Server(), Cache(), WorkQueue()
        body = resource()
        body["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
        path = path_of("ResNeXtTraining", "default", "resnext-digits")
        server.objects[path] = body
        cache.put(body)
        claim = {"kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "digits-data"}}
        cache.put(claim | {"spec": {"accessModes": ["ReadWriteMany"]}})
        said = SimpleNamespace(latest=lambda _: None, last_steps=lambda _: {})
        metrics = SimpleNamespace(recorded=lambda *_: None)
        told = []
        teller = SimpleNamespace(tell=lambda _, event, __: told.append(event.reason))
        runtime = handlers.Runtime(Settings(), server, cache, queue, said, teller, metrics)
        key = ("default", "resnext-digits")
        for _ in range(3):
            await handlers.reconcile(key, runtime)
        posts = [where for verb, where in server.writes if verb == "POST"]
        assert len(posts) == 6, posts  # config, network policy, claim, secret, two workers
        assert told == ["Accepted"]
        server.writes.clear()
        await handlers.reconcile(key, runtime)
        assert server.writes == []
        (policy,) = (each for each in cache.children(body, ()) if each["kind"] == "NetworkPolicy")
        policy["metadata"]["annotations"] = {"resnext.dev/desired-hash": "of-another-version"}
        for _ in range(3):
            await handlers.reconcile(key, runtime)
        assert [verb for verb, _ in server.writes] == ["PUT"]

    asyncio.run(story())


def test_no_deletion_is_under_way_any_more_when_one_of_them_has_failed():
    async def story():
        ended = []

        class Slow(Cluster):
            def __init__(self):
                pass

            async def request(self, _verb, path, *_, **__):
                if path.endswith("refused"):
                    raise Refused(500, "no")
                await asyncio.sleep(0.01)
                ended.append(path)
                return {}

        plan = Plan(delete=tuple(Reference("Pod", name, f"uid-{name}") for name in ("refused", "gone")))
        with pytest.raises(Refused):
            await Slow().carry_out(plan, SimpleNamespace(namespace="lab"))
        assert [path.rpartition("/")[2] for path in ended] == ["gone"]

    asyncio.run(story())
