"""Invalid or unexpected objects of one training affect no other training and end no loop."""

import asyncio
import json
import logging
import resource as limits
import string
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import Phase, Status
from resnext_operator.api.validation import parse
from resnext_operator.domain.observed import ClusterState
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import owner_reference
from resnext_operator.runtime import app, controller, observe, progress_poller
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.client import ApiError, path_of
from resnext_operator.runtime.guard import Guard
from resnext_operator.runtime.metrics import Metrics
from resnext_operator.runtime.progress_poller import ProgressPoller
from resnext_operator.runtime.scopes import Scopes
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.status_patch import merge_patch
from tests.support.fake_client import Server
from tests.support.fake_cluster import SITE, Cluster, resource
from tests.support.runtime import runtime_on

WORDS = st.text(string.printable, max_size=20) | st.sampled_from(["True", "Running", "2026-01-01T00:00:00Z", "NaN", ""])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


def shaped(*fields):
    """Objects whose fields have valid names and arbitrary content."""
    return st.dictionaries(st.sampled_from(fields), JSON, max_size=6) | JSON


ATTEMPT = shaped("number", "startTime", "endTime", "cause", "pod", "node", "workers", "resumedStep", "log", "message")
CONDITION = shaped("type", "status", "reason", "message", "lastTransitionTime")
PROGRESS = shaped("epoch", "epochs", "step", "steps", "imagesPerSecond", "top1", "loss", "updatedTime")
STATUS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("phase", "reason", "startTime", "completionTime", "failures", "any"), JSON),
        "operatorState": shaped(
            *("stepSeconds", "firstStep", "firstTime", "podsAccountedUntil", "accountedUntil", "reported")
        ),
        "goodput": shaped("ratio", "seconds"),
        "conditions": st.lists(CONDITION, max_size=3) | JSON,
        "attempts": st.lists(ATTEMPT, max_size=3) | JSON,
        **dict.fromkeys(("progress", "workers", "checkpoint", "summary"), PROGRESS),
    },
)
STATE = shaped("exitCode", "message", "reason", "finishedAt")
POD_STATUS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("phase", "podIP", "message", "reason"), JSON),
        "conditions": st.lists(CONDITION, max_size=3) | JSON,
        "containerStatuses": st.lists(
            st.fixed_dictionaries({"state": st.dictionaries(st.sampled_from(["waiting", "terminated"]), STATE)}),
            max_size=2,
        )
        | JSON,
    },
)
LABELS = st.dictionaries(
    st.sampled_from([names.TRAINING, names.ROLE, names.WORKER, names.ATTEMPT, names.WORKERS, names.SSH_SECRET_UID])
    | WORDS,
    JSON,
    max_size=5,
)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def training(name, **content):
    body = resource(**content.pop("spec", {}))
    metadata = {"namespace": "default", "name": name, "uid": f"uid-{name}", "generation": 1}
    metadata |= {"creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
    return {**body, "metadata": metadata, **content}


def runtime_of(*bodies):
    """The runtime of reconciliation with a fake API server."""
    server = Server()
    runtime = runtime_on(server)
    runtime.metrics.leading = True
    for body in bodies:
        server.objects[path_of(KIND, "default", body["metadata"]["name"])] = body
        controller.on_event("ADDED", body, runtime)
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "digits-data"}}
    controller.on_event("ADDED", claim | {"spec": {"accessModes": ["ReadWriteMany"]}}, runtime)
    return runtime


async def serves(runtime, name):
    """Whether a training is reconciled: its workers are created."""
    await controller.reconcile(("default", name), runtime)
    return f"/api/v1/namespaces/default/pods/{name}-worker-0-0" in runtime.cluster.objects


@MANY
@given(status=STATUS)
def test_any_status_is_replaced_and_affects_no_other(status):
    """The operator replaces what it cannot parse; the stored status can be parsed afterwards."""

    async def scenario():
        runtime = runtime_of(training("odd", status=status), training("good"))
        assert await serves(runtime, "good")
        await controller.reconcile(("default", "odd"), runtime)
        stored = runtime.cluster.objects[path_of(KIND, "default", "odd")]["status"]
        stored = {key: value for key, value in stored.items() if value is not None}
        assert Status.parse(stored).phase in set(Phase)
        assert b"resnext_operator_trainings" in generate_latest(runtime.metrics.registry)

    asyncio.run(scenario())


@MANY
@given(status=STATUS)
def test_parsed_status_is_stable_and_patch_is_complete(status):
    """Parsing is idempotent, and the patch leaves nothing but the new status."""
    parsed = Status.parse(status).to_json()
    assert Status.parse(parsed).to_json() == parsed
    assert json.loads(json.dumps(parsed, allow_nan=False)) == parsed
    patch = merge_patch(status, parsed)
    assert {key for key, value in patch.items() if value is None} == set(status) - set(parsed)


@MANY
@given(labels=LABELS, annotations=LABELS, status=POD_STATUS, which=st.sampled_from(["worker-0-0", "launcher-1", "x"]))
def test_any_pod_affects_no_other_training(labels, annotations, status, which):
    """A pod may have any labels, annotations and status."""

    async def scenario():
        runtime = runtime_of(training("odd"), training("good"))
        owner = owner_reference(parse(training("odd"), SITE))
        metadata: Manifest = {"namespace": "default", "name": f"odd-{which}", "uid": "p", "resourceVersion": "5"}
        metadata |= {"labels": labels, "annotations": annotations, "ownerReferences": [owner]}
        controller.on_event("ADDED", {"kind": "Pod", "metadata": metadata, "spec": {}, "status": status}, runtime)
        assert await serves(runtime, "good")
        await controller.reconcile(("default", "odd"), runtime)
        runtime.poller._running()
        assert b"resnext_operator_trainings" in generate_latest(runtime.metrics.registry)
        controller.on_event("DELETED", {"kind": "Pod", "metadata": metadata, "spec": {}, "status": status}, runtime)
        await controller.reconcile(("default", "odd"), runtime)

    asyncio.run(scenario())


@MANY
@given(message=JSON | shaped("verdict", "message", "progress", "rank", "log"))
def test_any_termination_message_ends_attempt(message):
    """If the message cannot be parsed, the exit code alone decides."""
    cluster = Cluster()
    cluster.run()
    text = message if isinstance(message, str) else json.dumps(message)
    cluster.end_pod(cluster.pods("launcher")[0], 8, text)
    cluster.settle()
    assert cluster.status["attempts"][0]["cause"] == "hung"


@MANY
@given(owners=JSON, metadata=LABELS, kind=st.sampled_from(["Pod", "ConfigMap", KIND, "PersistentVolumeClaim"]))
def test_any_object_in_list_affects_no_other(owners, metadata, kind):
    """Malformed objects are skipped and counted; those after them are cached."""
    runtime = runtime_of()
    odd = {"kind": kind, "metadata": {**metadata, "ownerReferences": owners}}
    good = training("good")
    listed = [odd, {"kind": kind}, good]
    skipped = []
    runtime.cache.resync(KIND, None, listed, 10, lambda found, _: skipped.append(found))
    assert runtime.cache.training(("default", "good"))
    assert len(skipped) == 2


# -- named cases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [
        {"phase": ["x"]},
        {"phase": "Dancing", "conditions": "x", "attempts": {"number": 1}},
        {"attempts": [{"number": "1"}], "failures": -1},
        {"attempts": [{"number": 10**18, "startTime": "2026-01-01T00:00:00Z"}]},
        {"startTime": "0001-01-01T00:00:00Z", "completionTime": "9999-12-31T23:59:59Z"},
        {"startTime": "2026-01-01T00:00:00", "stepSeconds": [1e308] * 9},
        {"conditions": [{"type": "Stalled", "status": "True", "lastTransitionTime": "yesterday"}]},
        {"progress": {"step": 1, "steps": 10, "epochs": 1, "updatedTime": 5, "top1": "0.5"}},
    ],
    ids=str,
)
def test_malformed_status_fields_are_replaced(status):
    """The operator treats a malformed field as unset and does not write it again."""
    cluster = Cluster()
    cluster.body["status"] = status
    cluster.run()
    assert cluster.status["phase"] == Phase.RUNNING
    assert Status.parse(cluster.status).to_json() == cluster.status


def test_ended_training_without_phase_stays_ended():
    """Otherwise removing the phase would start a finished training again."""
    cluster = Cluster(runPolicy={"ttlSecondsAfterFinished": 60})
    cluster.run()
    cluster.body["status"] |= {"phase": 7, "completionTime": {}} | {
        "conditions": [
            *cluster.status["conditions"],
            {**cluster.status["conditions"][0], "type": "Succeeded", "status": "True"},
        ]
    }
    made = list(cluster.made)
    cluster.settle()
    assert (cluster.status["phase"], cluster.made) == (Phase.SUCCEEDED, made)
    cluster.wait(seconds=61)
    cluster.settle()
    assert cluster.deleted


def test_fields_of_newer_version_kept_if_small():
    """A rollback keeps the fields of a newer operator, up to a size limit."""
    newer = {"restarts": {"node-1": 3}, "note": "x" * 100}
    large = {"junk": "x" * 5000, "deep": json.loads("[" * 50 + "]" * 50)}
    assert Status.parse({**newer, **large}).to_json() == newer


@pytest.mark.parametrize("seconds", [1, 2, 3600])
def test_training_of_a_billion_epochs_can_be_suspended(seconds):
    """Its completion time exceeds the range of dates and is unset."""
    cluster = Cluster(runPolicy={"activeDeadlineSeconds": 10**6})
    cluster.run()
    cluster.wait(seconds=seconds)
    assert cluster.progress is not None
    cluster.progress = cluster.progress.model_copy(update={"step": 21, "steps": 2**53, "epochs": 10**9})
    cluster.settle()
    assert "estimatedCompletionTime" not in cluster.status["progress"]
    cluster.body["spec"]["suspend"] = True
    cluster.settle()
    assert cluster.status["phase"] == Phase.SUSPENDED


@pytest.mark.parametrize("label", [names.WORKER, names.ATTEMPT, names.ROLE, names.TRAINING, names.WORKER_GENERATION])
def test_changed_labels_do_not_change_pod_role(label):
    """The pod's name and owner reference decide its role, not its labels."""
    cluster = Cluster()
    cluster.run()
    before = cluster.seen
    for pod in (*cluster.pods("worker"), *cluster.pods("launcher")):
        pod["metadata"]["labels"][label] = "x"
    assert cluster.seen == before


def test_pod_with_foreign_name_is_ignored():
    """A pod with an owner reference that was added by a user is ignored."""
    cluster = Cluster()
    cluster.run()
    stray = json.loads(json.dumps(cluster.pods("worker")[0]))
    for name in ("stray", "resnext-digits-worker-x-0", "resnext-digits-worker-0-0-0", "resnext-digits-launcher-"):
        stray["metadata"]["name"] = name
        assert observe.observe([stray]) == ClusterState()


def test_claim_event_reaches_trainings_after_malformed_one():
    """A malformed spec does not keep claim events from other trainings."""
    odd = training("odd", spec={"dataset": None})
    odd["spec"] |= {"checkpoints": ["x"], "workers": {"volumes": {"a": 1}}, "dataset": "x"}
    runtime = runtime_of(odd, training("good"))
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": "digits-data"}}
    assert ("default", "good") in controller.affected_trainings(claim, runtime)


def test_skipped_objects_are_counted_and_logged_once(caplog):
    """The metric counts every skip; the log names each object once in ten minutes."""
    metrics = Metrics(Cache(), lambda: 0)
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            with metrics.guard.each("list", ("Pod", "lab", "odd")):
                raise ValueError("no number")
    assert [each.getMessage() for each in caplog.records] == ["list: skipped Pod/lab/odd: ValueError: no number"]
    assert b'resnext_operator_skipped_objects_total{loop="list"} 50.0' in generate_latest(metrics.registry)


# -- /progress ---------------------------------------------------------------------------------------------------------

GOOD = {"attempt": 1, "epoch": 1.0, "epochs": 8, "step": 20, "steps": 160, "loss": 0.5}


def pod(of, role, address):
    owner = owner_reference(parse(training(of), SITE))
    metadata = {"namespace": "default", "name": f"{of}-{role}", "uid": f"{of}-{role}", "ownerReferences": [owner]}
    return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": "Running", "podIP": address}}


@asynccontextmanager
async def ranks(answer, monkeypatch):
    """A rank at 127.0.0.1 with valid responses, and one at 127.0.0.2 with those of the test."""
    runners, port = [], 0
    for address, handler in (("127.0.0.1", lambda _: asyncio.sleep(0, web.json_response(GOOD))), ("127.0.0.2", answer)):

        async def respond(request, handler=handler):
            return await handler(request)

        app = web.Application()
        app.router.add_get("/progress", respond)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, address, port).start()
        port = runner.addresses[0][1]
        runners.append(runner)
    monkeypatch.setattr(names, "METRICS_PORT", port)
    monkeypatch.setattr(progress_poller, "_ANSWER_SECONDS", 0.5)
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


def body(content, **headers):
    async def answer(_):
        return web.Response(body=content, headers=headers)

    return answer


async def endless(request):
    stream = web.StreamResponse()
    await stream.prepare(request)
    while True:
        await stream.write(b" " * 65_536)


async def silent(_):
    await asyncio.sleep(60)


async def redirecting(_):
    raise web.HTTPFound("http://127.0.0.1/progress")


ODD = {
    "byte 0xff": body(b"\xff"),
    "no JSON": body(b"{"),
    "a list": body(b"[1]"),
    "NaN": body(b'{"epochs": 8, "steps": NaN}'),
    "an absurd step": body(json.dumps({**GOOD, "step": 10**30}).encode()),
    "below zero": body(json.dumps({**GOOD, "step": -1}).encode()),
    "deep": body(b"[" * 60_000),
    "a surrogate": body(rb'{"epochs": 8, "steps": 1, "checkpoint": {"step": 1, "time": 1, "path": "\ud800"}}'),
    "a megabyte": body(b" " * 2**20 + json.dumps(GOOD).encode()),
    "compressed": body(b"\x1f\x8b\x08\x00", **{"Content-Encoding": "gzip"}),
    "endless": endless,
    "silent": silent,
    "a redirect": redirecting,
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_any_progress_response_leaves_other_ranks_polled(answer, monkeypatch):
    """The poller continues, other trainings are updated, and memory stays bounded."""

    async def scenario():
        runtime = runtime_of(training("odd"), training("good"))
        for of, address in (("odd", "127.0.0.2"), ("good", "127.0.0.1")):
            for role in ("worker-0-0", "launcher-1"):
                controller.on_event("ADDED", pod(of, role, address), runtime)
        async with ranks(answer, monkeypatch):
            watch = ProgressPoller(runtime.cache, runtime.queue, Settings(progress_poll_interval_seconds=0.1))
            before = limits.getrusage(limits.RUSAGE_SELF).ru_maxrss
            asking = asyncio.create_task(watch.run())
            async with asyncio.timeout(20):
                while not watch.latest(("default", "good")):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.7)
            assert not asking.done()
            good = watch.latest(("default", "good"))
            assert good is not None
            assert good.step == 20
            assert watch.latest(("default", "odd")) is None
            assert limits.getrusage(limits.RUSAGE_SELF).ru_maxrss - before < 64_000, "kilobytes"
            asking.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("loss", ["NaN", "1e999", "-Infinity"])
def test_non_finite_loss_is_dropped(loss, monkeypatch):
    """The step is still reported if the loss diverges."""

    async def scenario():
        runtime = runtime_of(training("odd"))
        for role in ("worker-0-0", "launcher-1"):
            controller.on_event("ADDED", pod("odd", role, "127.0.0.2"), runtime)
        answer = body(json.dumps({**GOOD, "loss": 0.5}).replace("0.5", loss).encode())
        async with ranks(answer, monkeypatch):
            watch = ProgressPoller(runtime.cache, runtime.queue, Settings(progress_poll_interval_seconds=0.1))
            asking = asyncio.create_task(watch.run())
            async with asyncio.timeout(20):
                while not (found := watch.latest(("default", "odd"))):
                    await asyncio.sleep(0.05)
            assert (found.step, found.loss) == (20, None)
            asking.cancel()

    asyncio.run(scenario())


def test_slots_of_malformed_spec_are_bounded():
    """The number of polled ranks is bounded even if the stored spec is not."""
    for slots, bounded in ((10**9, 16), (-1, 1), ("7", 7)):
        odd = training("odd")
        odd["spec"]["workers"] = {"slots": slots}
        runtime = runtime_of(odd)
        assert runtime.poller._ranks_per_worker(("default", "odd")) == bounded


class Listed(Scopes):
    """Scopes in which everything is listed."""

    def knows(self, namespace: str) -> bool:  # noqa: ARG002
        return True


def test_repeated_failure_of_a_key_is_logged_once(caplog):
    """The same error of the same training is logged once in ten minutes."""

    async def scenario():
        runtime = runtime_of()
        runtime.cache.training = lambda key: {}[key]
        working = asyncio.create_task(app._worker(runtime, Listed(runtime)))
        for _ in range(5):
            runtime.queue.add(("default", "odd"))
            await asyncio.sleep(0.02)
            runtime.queue.add(("default", "odd"))
        working.cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert len([each for each in caplog.records if "default/odd" in each.getMessage()]) == 1


def test_terminating_namespace_causes_no_error_or_event(caplog):
    """The operator writes no log, status or event there and retries later."""

    class Terminating(Server):
        async def request(self, verb, path, body=None, **how):
            if verb == "POST" and "/default/" in path:
                words = "unable to create new content in namespace default because it is being terminated"
                raise ApiError(403, words)
            return await super().request(verb, path, body, **how)

    async def scenario():
        runtime = replace(runtime_of(training("odd")), cluster=Terminating())
        await controller.reconcile(("default", "odd"), runtime)
        assert runtime.cluster.writes == []
        assert runtime.queue._delayed[("default", "odd")].when() > asyncio.get_running_loop().time() + 30

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert not caplog.records


def test_guard_propagates_cancellation():
    """A cancelled loop ends."""
    with pytest.raises(asyncio.CancelledError), Guard().each("list", "x"):
        raise asyncio.CancelledError
