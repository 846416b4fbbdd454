"""Wires the cluster's events to `policy`: an event only queues a key; a key is read, decided, carried out, reported."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import kopf

from resnext_operator import api, names, observe, policy, render, ssh
from resnext_operator.api import KIND, Key, Manifest
from resnext_operator.cache import CLAIMS, Cache, key_of, training_of
from resnext_operator.cluster import PATHS, Cluster, Refused, Stranger
from resnext_operator.metrics import Metrics
from resnext_operator.progress import Watch
from resnext_operator.settings import Settings
from resnext_operator.teller import Teller
from resnext_operator.workqueue import WorkQueue

_log = logging.getLogger(__name__)

# Claims carry no label of ours when the user made them, so all of a namespace are watched.
LABELLED = ("Pod", "ConfigMap", "NetworkPolicy")
WATCHED = (KIND, *LABELLED, CLAIMS)

# A quota or an admission rule is in the way: the user should read of it, and it may pass.
_REFUSALS = (400, 403, 422)


@dataclass(frozen=True)
class Runtime:
    """What reconciling needs, for as long as the process lives."""

    settings: Settings
    cluster: Cluster
    cache: Cache
    queue: WorkQueue
    progress: Watch
    teller: Teller
    metrics: Metrics


def selector(kind: str) -> str:
    """The labels by which the server picks what is listed and watched."""
    return names.TRAINING if kind in LABELLED else ""


def registry(cache: Cache, queue: WorkQueue) -> kopf.OperatorRegistry:
    """kopf's handlers: none of them adds a finalizer, and kopf itself writes nothing."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**given: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        found: Manifest = dict(event["object"])
        (cache.drop if event["type"] == "DELETED" else cache.put)(found)
        for key in concerned(found, cache):
            queue.add(key)

    for kind in WATCHED:
        path, plural = PATHS[kind]
        group, _, version = path.removeprefix("apis/").removeprefix("api/").rpartition("/")
        kopf.on.event(group, version, plural, registry=handlers, id=kind)(seen)
    return handlers


class _NoDifferences(kopf.DiffBaseStorage):
    """What a handler of changes would compare: there is none.

    kopf copies each object four times for it: 0.7 of the 0.95 ms that an event costs on two cores of 2026.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


def quiet() -> kopf.OperatorSettings:
    """kopf reads; events and state are the operator's own to write."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    for kind in LABELLED:
        path, plural = PATHS[kind]
        group, _, version = path.removeprefix("apis/").removeprefix("api/").rpartition("/")
        settings.watching.label_selectors[group, version, plural] = selector(kind)
    return settings


def concerned(found: Manifest, cache: Cache) -> Iterator[Key]:
    """The trainings that an object may matter to."""
    if found["kind"] == KIND:
        yield key_of(found)
    elif found["kind"] != CLAIMS:
        if key := training_of(found):
            yield key
    else:
        for training in cache.trainings():
            if training["metadata"]["namespace"] == found["metadata"]["namespace"] and (
                found["metadata"]["name"] in claims(training)
            ):
                yield key_of(training)


def claims(training: Manifest) -> list[str]:
    """The claims that a training mounts."""
    spec, name = training["spec"], training["metadata"]["name"]
    checkpoints = (spec.get("checkpoints") or {}).get("claimName") or names.claim(name)
    dataset = (spec.get("dataset") or {}).get("claimName")
    volumes = [each.get("persistentVolumeClaim") or {} for each in (spec.get("workers") or {}).get("volumes") or ()]
    return [name for name in (checkpoints, dataset, *(each.get("claimName") for each in volumes)) if name]


async def reconcile(key: Key, runtime: Runtime) -> None:
    """Read, decide, act, report."""
    body = runtime.cache.training(key)
    # Also what cannot be parsed is left alone, if another manager looks after it.
    if body is None or body["spec"].get("managedBy", api.MANAGER) != api.MANAGER:
        return
    now = datetime.now(UTC)
    gone = runtime.cache.gone_launcher(body)
    children, progress = runtime.cache.children(body, claims(body)), runtime.progress
    seen = observe.observe(children, [gone] if gone else [], progress.latest(key), progress.last_steps(key))
    try:
        training = api.parse(body, runtime.settings.site)
    except api.InvalidTraining as error:
        await _refuse(body, seen, str(error), runtime, now)
        return
    plan = policy.decide(training, seen, now)
    try:
        if plan.needs_keys:
            keys = await runtime.cluster.keys(training, lambda: _new_keys(training), likely=bool(seen.workers))
            plan = policy.decide(training, replace(seen, keys=keys), now)
        changed = await runtime.cluster.carry_out(plan, training)
    except Stranger as error:
        await _refuse(body, seen, str(error), runtime, now)
        return
    except Refused as error:
        if error.code in _REFUSALS:
            await _report(training, policy.hindered(training, plan, str(error), now), runtime, now)
        raise
    for child in changed:
        runtime.cache.put(child)
    await _report(training, plan, runtime, now)
    if plan.requeue_after is not None:
        runtime.queue.add_later(key, plan.requeue_after.total_seconds())


def _new_keys(training: api.Training) -> Manifest:
    return render.secret(training, ssh.generate())


async def _refuse(body: Manifest, seen: api.Observed, message: str, runtime: Runtime, now: datetime) -> None:
    metadata, status = body["metadata"], body.get("status") or {}
    generation = metadata.get("generation", 1)
    stand_in = api.Training(
        metadata["namespace"],
        metadata["name"],
        metadata["uid"],
        generation,
        False,
        api.placeholder_spec(),
        runtime.settings.site,
        status,
    )
    plan = policy.refused(status, seen, generation, message, now)
    for child in await runtime.cluster.carry_out(plan, stand_in):
        runtime.cache.put(child)
    await _report(stand_in, plan, runtime, now)


async def _report(training: api.Training, plan: api.Plan, runtime: Runtime, now: datetime) -> None:
    """The status is written once, after the work; what it says for the first time is counted and told."""
    written = await runtime.cluster.report(training, plan.status)
    if written is None:
        return
    runtime.cache.put(written)
    runtime.metrics.recorded(training.status, plan.status, written["metadata"]["creationTimestamp"], now)
    for event in plan.events:
        _log.info("%s/%s: %s: %s", *training.key, event.reason, event.message)
        runtime.teller.tell(training, event, now)
    # What only now is recorded may free evidence: look again.
    runtime.queue.add(training.key)
