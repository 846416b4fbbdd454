"""Reconciliation of one training against an API server in memory."""

import asyncio

import pytest

from resnext_operator.api.validation import parse
from resnext_operator.domain.plan import ObjectRef, Plan
from resnext_operator.runtime import controller
from resnext_operator.runtime.children import apply_plan
from resnext_operator.runtime.client import ApiError, KubeClient, path_of
from tests.support.fake_client import Server
from tests.support.fake_cluster import SITE, resource
from tests.support.runtime import Recorder, runtime_on


class Place:
    """Trainings, a fake API server and the runtime of reconciliation."""

    def __init__(self, *trainings):
        self.server = Server()
        self.runtime = runtime_on(self.server)
        self.cache, self.queue = self.runtime.cache, self.runtime.queue
        for body in trainings or (resource(),):
            body["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
            self.server.objects[path_of("ResNeXtTraining", "default", body["metadata"]["name"])] = body
            self.cache.upsert(body)
        claim = {"kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "digits-data"}}
        self.cache.upsert(claim | {"spec": {"accessModes": ["ReadWriteMany"]}})

    @property
    def event_reasons(self):
        """Reasons of the events."""
        recorder = self.runtime.recorder
        assert isinstance(recorder, Recorder)
        return recorder.reasons

    async def reconcile(self, times=1, name="resnext-digits"):
        for _ in range(times):
            await controller.reconcile(("default", name), self.runtime)

    @property
    def posts(self):
        return [where for verb, where in self.server.writes if verb == "POST"]

    def pods(self):
        return [each for path, each in self.server.objects.items() if "/pods/" in path]

    def status(self, name="resnext-digits"):
        return self.server.objects[path_of("ResNeXtTraining", "default", name)].get("status") or {}


def test_children_are_created_once_and_updated_once():
    """Later reconciliations write nothing; a NetworkPolicy of another version is updated once."""

    async def scenario():
        place = Place()
        await place.reconcile(3)
        assert len(place.posts) == 6, place.posts  # config, network policy, claim, secret, two workers
        assert place.event_reasons == ["Accepted"]
        place.server.writes.clear()
        await place.reconcile()
        assert place.server.writes == []
        (policy,) = (each for each in place.cache.children(resource(), ()) if each["kind"] == "NetworkPolicy")
        policy["metadata"]["annotations"] = {"resnext.dev/spec-hash": "of-another-version"}
        await place.reconcile(3)
        assert [verb for verb, _ in place.server.writes] == ["PUT"]

    asyncio.run(scenario())


def named(name):
    body = resource()
    body["metadata"] |= {"name": name, "uid": f"uid-of-{name}"}
    return body


def test_dry_run_is_shared_by_equal_templates():
    """100 ordinary trainings cost two dry runs and one list of quotas, and no additional write."""

    async def scenario():
        names = [f"t{number}" for number in range(100)]
        place = Place(*map(named, names))
        await asyncio.gather(*(place.reconcile(2, name) for name in names))
        assert len(place.server.dry_runs) == 2
        assert place.server.quota_looks == 1
        assert len(place.posts) == 600
        patches = [path for verb, path in place.server.writes if verb == "PATCH"]
        assert len(patches) == 100
        assert all(path.endswith("/status") for path in patches)

    asyncio.run(scenario())


def test_dry_run_repeats_for_other_template():
    """Any field that changes the pods leads to another dry run."""

    async def scenario():
        larger = named("larger")
        larger["spec"]["workers"]["resources"] = {"limits": {"memory": "2Gi"}}
        place = Place(named("a"), larger)
        await place.reconcile(name="a")
        await place.reconcile(name="larger")
        assert len(place.server.dry_runs) == 4

    asyncio.run(scenario())


QUOTA = 'pods "x" is forbidden: failed quota: team: must specify limits.cpu for: launcher'


@pytest.mark.parametrize("role", ["worker", "launcher"])
def test_rejected_dry_run_creates_nothing(role):
    """No worker holds a GPU for a launcher that the quota rejects; the message names the field."""

    async def scenario():
        place = Place()
        place.server.refusals[role] = ApiError(403, QUOTA)
        await place.reconcile(3)
        assert place.posts == []
        status = place.status()
        assert (status["phase"], status["reason"]) == ("Pending", "PodCreationRejected")
        part = "launcher" if role == "launcher" else "workers"
        (scheduled,) = (each for each in status["conditions"] if each["type"] == "Scheduled")
        assert f"set spec.{part}.resources.limits.cpu" in scheduled["message"]
        assert place.event_reasons.count("PodCreationRejected") == 1
        tried = len(place.server.dry_runs)
        await place.reconcile(3)
        assert len(place.server.dry_runs) == tried, "not before the backoff has elapsed"
        place.server.refusals.clear()
        await asyncio.sleep(2)
        await place.reconcile(3)
        assert len(place.pods()) == 2

    asyncio.run(scenario())


def test_unsupported_dry_run_is_ignored():
    """A webhook with side effects rejects dry runs; the pods are created without one."""

    async def scenario():
        place = Place()
        message = 'admission webhook "inject.example" does not support dry run'
        place.server.refusals = {"worker": ApiError(400, message), "launcher": ApiError(400, message)}
        await place.reconcile(3)
        assert len(place.pods()) == 2
        assert not any("schedulingGates" in pod["spec"] for pod in place.pods())

    asyncio.run(scenario())


def test_invalid_dry_run_fails_before_creation():
    """The API server rejects a field that the operator does not validate."""

    async def scenario():
        place = Place()
        place.server.refusals["worker"] = ApiError(422, 'Pod "x" is invalid: spec.volumes[0]: Invalid value')
        await place.reconcile(3)
        assert place.posts == []
        assert (place.status()["phase"], place.status()["reason"]) == ("Failed", "PodsInvalid")

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [500, 429, 503])
def test_api_server_error_is_not_a_rejection(code):
    """The work queue retries, as for any other request."""

    async def scenario():
        place = Place()
        place.server.refusals["worker"] = ApiError(code, "try later")
        with pytest.raises(ApiError):
            await place.reconcile()
        assert place.status() == {}

    asyncio.run(scenario())


def test_quota_gates_workers_until_launcher_is_admitted():
    """The second dry run counts the quota used by the workers."""

    async def scenario():
        place = Place()
        place.server.quotas = [{"metadata": {"name": "team"}}]
        await place.reconcile()
        assert len(place.pods()) == 2
        assert all(pod["spec"]["schedulingGates"] == [{"name": "resnext.dev/gang"}] for pod in place.pods())
        exceeded = 'pods "x" is forbidden: exceeded quota: team, requested: pods=1, used: pods=2, limited: pods=2'
        place.server.refusals["launcher"] = ApiError(403, exceeded)
        await place.reconcile(2)
        assert [verb for verb, path in place.server.writes if "/pods/" in path and verb == "PATCH"] == []
        assert place.status()["reason"] == "PodCreationRejected"
        place.server.refusals.clear()
        await asyncio.sleep(1.6)
        await place.reconcile(2)
        opened = [body for verb, path, body in place.server.patches if "/pods/" in path]
        assert len(opened) == 2
        for body in opened:
            # Only its own gate: a queueing system may have added another one.
            assert body["spec"] == {"schedulingGates": [{"$patch": "delete", "name": "resnext.dev/gang"}]}
        assert not any(pod["spec"]["schedulingGates"] for pod in place.pods())

    asyncio.run(scenario())


def test_rejected_pod_is_retried_without_recreating_others():
    """Missing pods are created with scheduling gates; existing ones are not created again."""

    async def scenario():
        place = Place()
        place.server.refused_pods["resnext-digits-worker-1-0"] = ApiError(403, QUOTA)
        await place.reconcile(2)
        assert [pod["metadata"]["name"] for pod in place.pods()] == ["resnext-digits-worker-0-0"]
        assert place.status()["rejection"]["cause"] == "Quota"
        place.server.refused_pods.clear()
        await asyncio.sleep(1.6)
        await place.reconcile(3)
        assert len(place.pods()) == 2
        assert len([path for path in place.posts if path.endswith("/pods")]) == 3

    asyncio.run(scenario())


def test_failed_deletion_waits_for_other_deletions():
    """No deletion is in flight when the error is raised."""

    async def scenario():
        ended = []

        class Slow(KubeClient):
            def __init__(self):
                pass

            async def request(self, verb, path, body=None, *, query=(), content="", seconds=0):  # noqa: ARG002
                if path.endswith("refused"):
                    raise ApiError(500, "no")
                await asyncio.sleep(0.01)
                ended.append(path)
                return {}

        plan = Plan(delete=tuple(ObjectRef("Pod", name, f"uid-{name}") for name in ("refused", "gone")))
        with pytest.raises(ApiError):
            await apply_plan(Slow(), plan, parse(resource(), SITE))
        assert [path.rpartition("/")[2] for path in ended] == ["gone"]

    asyncio.run(scenario())
