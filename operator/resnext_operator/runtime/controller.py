"""The reconcile loop. Events only queue the keys of trainings; a worker reads the cache, decides, acts and reports."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

import kopf

from resnext_operator.api.groupversion import CONTROLLER_NAME, KIND
from resnext_operator.api.objects import Manifest, TrainingKey
from resnext_operator.api.objects.shared import Secret
from resnext_operator.api.training import Training
from resnext_operator.domain.admission import plan_for_name_conflict
from resnext_operator.domain.observed import ClusterState, Rejection
from resnext_operator.domain.plan import Plan
from resnext_operator.domain.reconciler import decide
from resnext_operator.domain.rejections import plan_after_api_rejection
from resnext_operator.rendering import names
from resnext_operator.rendering.secret import ssh_secret
from resnext_operator.runtime import observe, ssh_keys
from resnext_operator.runtime.admission_check import Admission, Rejected
from resnext_operator.runtime.cache import CLAIMS, Cache, prune
from resnext_operator.runtime.cached_objects import (
    JSON,
    AnyObject,
    CachedObject,
    ClaimReference,
    TrainingSpec,
    TrainingWorkers,
    WorkerVolume,
)
from resnext_operator.runtime.children import Applied, NameConflict, apply_plan, ensure_ssh_secret
from resnext_operator.runtime.client import PATHS, ApiError, KubeClient
from resnext_operator.runtime.event_recorder import EventRecorder
from resnext_operator.runtime.guard import Guard
from resnext_operator.runtime.metrics import Metrics
from resnext_operator.runtime.ownership import foreign_claims
from resnext_operator.runtime.progress_poller import ProgressPoller
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.status_patch import patch_status
from resnext_operator.runtime.training_reader import TrainingReader
from resnext_operator.runtime.unstructured import fields, items, key_of, managed_by, namespace_and_name, word
from resnext_operator.runtime.workqueue import WorkQueue

_log = logging.getLogger(__name__)

# Claims that users created have no label of the operator, so all claims of a namespace are watched.
OWNED_KINDS = ("Pod", "ConfigMap", "NetworkPolicy")
WATCHED = (KIND, *OWNED_KINDS, CLAIMS)

# Message of the API server's NamespaceLifecycle admission plugin.
_TERMINATING, _TERMINATING_SECONDS = "because it is being terminated", 60.0


@dataclass(frozen=True)
class Runtime:
    """The components that reconciliation uses, for the lifetime of the process."""

    settings: Settings
    cluster: KubeClient
    cache: Cache
    queue: WorkQueue
    poller: ProgressPoller
    recorder: EventRecorder
    metrics: Metrics
    admission: Admission
    reader: TrainingReader
    guard: Guard = field(default_factory=Guard)
    settled: set[TrainingKey] = field(default_factory=set)
    """Ended trainings that need no reconciliation before their next event."""


def selector(kind: str) -> str:
    """Label selector of the list and the watch of a kind."""
    return names.TRAINING if kind in OWNED_KINDS else ""


def registry(see: Callable[[str, Manifest], None]) -> kopf.OperatorRegistry:
    """kopf handlers that only observe: they add no finalizer, and kopf writes nothing.

    see: called with the type of each event and the object.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**given: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        see(str(event["type"]), dict(event["object"]))

    for kind in WATCHED:
        kopf.on.event(*_resource(kind), registry=handlers, id=kind)(seen)
    return handlers


def _resource(kind: str) -> tuple[str, str, str]:
    """API group, version and plural of a kind."""
    path, plural = PATHS[kind]
    group, _, version = path.removeprefix("apis/").removeprefix("api/").rpartition("/")
    return group, version, plural


class _NullDiffBaseStorage(kopf.DiffBaseStorage):
    """Disables kopf's diffs, which no handler uses.

    kopf copies each object four times for them, which takes 0.7 ms of the 0.95 ms per event (2 AVX2 cores, 2026).
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        # kopf copies the essence unless it is None.
        return cast("kopf.BodyEssence", None)

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


def on_event(event: str, found: AnyObject, runtime: Runtime) -> None:
    """Update the cache with an event of the watch, and queue the trainings that it may affect."""
    with runtime.guard.each("watch", (found.get("kind"), *namespace_and_name(found))):
        pruned = prune(found)
        keys = affected_trainings(pruned, runtime)
        if (runtime.cache.remove if event == "DELETED" else runtime.cache.store)(pruned):
            for key in keys:
                runtime.queue.add(key)


def kopf_settings() -> kopf.OperatorSettings:
    """Settings for a kopf that only watches. The operator itself writes events and state."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NullDiffBaseStorage()
    settings.posting.enabled = False
    # By default kopf retries for two minutes without logging, even if a request is forbidden. `scopes` restarts it.
    settings.networking.error_backoffs = (0.5, 1.0)
    settings.process.ultimate_exiting_timeout = None
    settings.scanning.disabled = True
    for kind in OWNED_KINDS:
        settings.watching.label_selectors[_resource(kind)] = selector(kind)
    return settings


def affected_trainings(found: AnyObject, runtime: Runtime) -> set[TrainingKey]:
    """The trainings that an object or its cached version may affect."""
    if found["kind"] == KIND:
        return {key_of(found)}
    if found["kind"] != CLAIMS:
        return runtime.cache.concerned(found)
    namespace, name = key_of(found)
    keys: set[TrainingKey] = set()
    for training in runtime.cache.trainings():
        with runtime.guard.each("watch", key_of(training)):
            if training["metadata"]["namespace"] == namespace and name in claims(training):
                keys.add(key_of(training))
    return keys


def claims(training: CachedObject) -> list[str]:
    """The claims that a training mounts."""
    spec = fields(TrainingSpec, training.get("spec"))
    checkpoints = _claim_name(spec.get("checkpoints")) or names.claim_name(training["metadata"]["name"])
    dataset = _claim_name(spec.get("dataset"))
    volumes = items(WorkerVolume, fields(TrainingWorkers, spec.get("workers")).get("volumes"))
    of_volumes = [_claim_name(each.get("persistentVolumeClaim")) for each in volumes]
    return [name for name in (checkpoints, dataset, *of_volumes) if name]


def _claim_name(reference: JSON) -> str:
    return word(fields(ClaimReference, reference).get("claimName"))


async def reconcile(key: TrainingKey, runtime: Runtime) -> None:
    """Read from the cache, decide, apply the plan, patch the status."""
    body = runtime.cache.training(key)
    runtime.settled.discard(key)
    # Before parsing: an invalid training of another controller is not reported either.
    if body is None or managed_by(body) != CONTROLLER_NAME:
        runtime.reader.forget(key)
        return
    now = datetime.now(UTC)
    last_launcher = runtime.cache.last_deleted_launcher(body)
    children, progress = runtime.cache.children(body, claims(body)), runtime.poller
    state = observe.observe(
        children,
        [last_launcher] if last_launcher else [],
        progress.latest(key),
        progress.last_steps(key),
        lambda child, error: runtime.guard.skipped("observe", (child.get("kind"), *namespace_and_name(child)), error),
        foreign_claims(children, body["metadata"]["name"], body["metadata"]["uid"]),
    )
    training = runtime.reader.read(body)
    plan = decide(training, state, now)
    try:
        plan = await _plan_with_lookups(plan, training, state, runtime, now)
        applied = await apply_plan(runtime.cluster, plan, training)
    except NameConflict as error:
        await _fail_invalid(training, state, str(error), runtime, now)
        return
    except Rejected as rejected:
        applied = Applied(rejections=[rejected.rejection])
    except ApiError as refused:
        # The operator lacks a permission, or a Secret exceeds a quota. The status reports it.
        if refused.code != 403:
            raise
        applied = Applied(rejections=[Rejection("A request", "of the operator", "", refused.code, refused.message)])
    _cache_answers(applied, training, runtime)
    if any(_TERMINATING in rejection.message for rejection in applied.rejections):
        # The namespace and its trainings are being deleted, so the status is not written.
        runtime.queue.add_after(key, _TERMINATING_SECONDS)
        return
    if applied.rejections:
        runtime.admission.forget(training)
        plan = plan_after_api_rejection(training, plan, applied.rejections[0], now)
    written = await _write_status(training, plan, runtime, now)
    if plan.requeue_after is not None:
        runtime.queue.add_after(key, plan.requeue_after.total_seconds())
    if plan.status.phase and plan.status.phase.ended and not (written or plan.changes_children or plan.requeue_after):
        runtime.settled.add(key)
        runtime.reader.forget(key)


def _cache_answers(applied: Applied, training: Training, runtime: Runtime) -> None:
    """Store the responses to the operator's own writes. As after an event, a change queues the training."""
    changes = [runtime.cache.upsert(child) for child in applied.created]
    changes += [runtime.cache.refresh(child) for child in applied.changed]
    if any(changes):
        runtime.queue.add(training.key)


async def _plan_with_lookups(
    plan: Plan, training: Training, state: ClusterState, runtime: Runtime, now: datetime
) -> Plan:
    """Fetch the admission results and SSH keys that the plan depends on, and decide again; raises Rejected."""
    while plan.needs_admission or plan.needs_launcher_admission or plan.needs_ssh_secret:
        if plan.needs_admission:
            state = replace(state, quota=await runtime.admission.check(training))
        if plan.needs_launcher_admission:
            await runtime.admission.check_launcher(training)
            state = replace(state, launcher_admitted=True)
        if plan.needs_ssh_secret:
            likely = bool(state.workers)
            state = replace(
                state,
                keys=await ensure_ssh_secret(runtime.cluster, training, lambda: _new_keys(training), likely=likely),
            )
        plan = decide(training, state, now)
    return plan


def _new_keys(training: Training) -> Secret:
    return ssh_secret(training, ssh_keys.generate())


async def _fail_invalid(training: Training, state: ClusterState, message: str, runtime: Runtime, now: datetime) -> None:
    plan = plan_for_name_conflict(training.status, state, training.generation, message, now)
    _cache_answers(await apply_plan(runtime.cluster, plan, training), training, runtime)
    await _write_status(training, plan, runtime, now)


async def _write_status(training: Training, plan: Plan, runtime: Runtime, now: datetime) -> bool:
    """Patch the status once after the plan is applied; then update the metrics and record the events.

    Returns whether the status differs from the stored one.
    """
    written = await patch_status(runtime.cluster, training, plan.status)
    if written is None:
        return False
    runtime.cache.refresh(written)
    runtime.metrics.recorded(training.status, plan.status, written["metadata"]["creationTimestamp"], now)
    for event in plan.events:
        _log.info("%s/%s: %s: %s", *training.key, event.reason, event.message)
        runtime.recorder.record(training, event, now)
    # Pods that are kept until the status records their end can be deleted now.
    runtime.queue.add(training.key)
    return True
