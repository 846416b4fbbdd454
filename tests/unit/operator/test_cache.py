"""The cache never goes back to an older version and never returns the children of another training."""

import json

from resnext_operator.api.groupversion import KIND
from resnext_operator.rendering import names
from resnext_operator.runtime import observe
from resnext_operator.runtime.cache import Cache, prune

STARTED = "2026-01-01T00:00:00Z"


def training(uid="t1", version=1, **content):
    metadata = {"namespace": "lab", "name": "flowers", "uid": uid, "resourceVersion": str(version)}
    return {"kind": KIND, "metadata": metadata, "spec": {}, **content}


def pod(name="flowers-worker-0-0", uid="p1", version=1, owner="t1", role="worker", phase="Running", of="flowers"):
    metadata = {
        "namespace": "lab",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "labels": {names.TRAINING: "flowers", names.ROLE: role},
        "ownerReferences": [{"apiVersion": "resnext.dev/v1alpha2", "kind": KIND, "name": of, "uid": owner}],
        "managedFields": ["long"],
    }
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": phase}}


def phases(cache):
    return [child["status"]["phase"] for child in cache.children(training(), ())]


def test_cache_ignores_event_older_than_own_write():
    """An event with a lower resourceVersion does not overwrite the result of a write."""
    cache = Cache()
    cache.upsert(pod(version=20, phase="Succeeded"))
    cache.upsert(pod(version=10, phase="Running"))
    assert phases(cache) == ["Succeeded"]


def test_cache_remembers_version_of_unchanged_object():
    """An event between two versions with the same content is older than the second one."""
    cache = Cache()
    assert cache.upsert(pod(version=1))
    assert not cache.upsert(pod(version=20))
    assert not cache.upsert(pod(version=10, phase="Pending"))
    assert phases(cache) == ["Running"]
    assert cache.upsert(pod(version=30, phase="Succeeded"))


def test_cache_delete_of_old_uid_keeps_new_object():
    """A DELETED event removes only the object with that uid."""
    cache = Cache()
    cache.upsert(pod(uid="new", version=9))
    cache.remove(pod(uid="old", version=12))
    assert phases(cache) == ["Running"]


def test_children_of_earlier_training_uid_are_ignored():
    """Pods owned by an earlier training of the same name are not children of the new one."""
    cache = Cache()
    cache.upsert(pod(owner="t0"))
    assert phases(cache) == []


def test_resync_removes_missing_objects_unless_newer():
    """A list removes objects that it lacks, except those newer than the list."""
    cache = Cache()
    cache.upsert(pod(name="gone", uid="a", version=5))
    cache.upsert(pod(name="made-during-list", uid="b", version=50))
    changed = cache.resync("Pod", None, [pod(name="listed", uid="c", version=7)], at=30)
    assert {child["metadata"]["name"] for child in cache.children(training(), ())} == {"made-during-list", "listed"}
    assert {each["metadata"]["name"] for each in changed} == {"gone", "listed"}


def test_resync_of_one_namespace_keeps_other_namespaces():
    """A list of one namespace removes nothing from another."""
    cache = Cache()
    cache.upsert(pod(version=5))
    cache.resync("Pod", "elsewhere", [], at=30)
    assert phases(cache) == ["Running"]


def test_deleted_launcher_kept_until_training_is_deleted():
    """The exit status of a deleted launcher is available for as long as its training exists."""
    cache = Cache()
    cache.upsert(training())
    cache.upsert(pod(name="flowers-launcher-1", role="launcher"))
    cache.remove(pod(name="flowers-launcher-1", role="launcher", version=2, phase="Failed"))
    last = cache.last_deleted_launcher(training())
    assert last is not None
    assert last["status"]["phase"] == "Failed"
    assert cache.last_deleted_launcher(training(uid="t2")) is None
    cache.remove(training())
    assert cache.last_deleted_launcher(training()) is None


def test_launcher_deleted_after_training_is_not_kept():
    """No memory is used for launchers whose training is already deleted."""
    cache = Cache()
    cache.upsert(training())
    cache.upsert(pod(name="flowers-launcher-1", role="launcher"))
    cache.remove(training())
    cache.remove(pod(name="flowers-launcher-1", role="launcher"))
    assert cache.last_deleted_launcher(training()) is None


def test_deleted_object_is_not_restored_by_late_response():
    """The answer to a DELETE may be processed after the event; its version may even be newer than the cached one."""
    cache = Cache()
    for deleted in (pod(version=5), training(version=5)):
        cache.upsert(deleted)
        cache.remove(deleted)
        cache.refresh(deleted | {"metadata": deleted["metadata"] | {"resourceVersion": "6"}})
    assert not cache.training_keys()
    cache.upsert(training(uid="t2"))
    cache.upsert(pod(uid="p2", owner="t2"))
    cache.refresh(training(version=7))
    cache.refresh(pod(version=7))
    assert cache.training_keys()
    assert [child["metadata"]["uid"] for child in cache.children(training(uid="t2"), ())] == ["p2"]


def test_cache_prunes_unused_fields():
    """The cache drops managedFields, which nothing reads."""
    cache = Cache()
    cache.upsert(pod())
    (child,) = cache.children(training(), ())
    assert "managedFields" not in child["metadata"]


def test_cache_interns_equal_strings():
    """Equal namespaces and label keys of all objects share one string."""
    cache = Cache()
    for number in range(2):
        # As parsed: equal but not identical strings.
        cache.upsert(json.loads(json.dumps(pod(name=f"flowers-worker-{number}-0", uid=f"p{number}"))))
    one, other = (child["metadata"] for child in cache.children(training(), ()))
    assert one["namespace"] is other["namespace"]
    assert all(mine is its for mine, its in zip(one["labels"], other["labels"], strict=True))


def test_pruned_worker_pod_is_observed_unchanged():
    """Pruning removes no field that a decision reads."""
    state = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "words", "finishedAt": STARTED}}
    seen = pod()
    seen["metadata"]["labels"] |= {
        names.WORKER: "0",
        names.WORKER_GENERATION: "0",
        names.REVISION: "r",
        names.SSH_SECRET_UID: "k",
    }
    seen["status"] = {
        "phase": "Failed",
        "message": "of the pod",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": STARTED},
            {"type": "Initialized", "status": "True"},
            {"type": "Ready", "status": "False"},
            {"type": "DisruptionTarget", "status": "True", "message": "evicted"},
        ],
        "containerStatuses": [{"name": "worker", "image": "i", "state": state}],
    }
    assert observe.worker(prune(seen)) == observe.worker(seen)
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    seen["status"] = {"phase": "Pending", "containerStatuses": [waiting]}
    assert observe.worker(prune(seen)) == observe.worker(seen)
    assert observe.worker(seen).waiting_reason
    seen["status"] = {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{"state": {"running": {}}}]}
    assert observe.worker(prune(seen)) == observe.worker(seen)
    assert observe.worker(seen).address == "10.0.0.7"
    seen["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    assert observe.worker(prune(seen)) == observe.worker(seen)
    assert observe.worker(seen).disrupted


def test_pruned_launcher_pod_is_observed_unchanged():
    """Pruning removes no field that a decision reads."""
    report = json.dumps({"verdict": "hung", "message": "words", "rank": 1})
    state = {"terminated": {"exitCode": 8, "message": report, "startedAt": STARTED, "finishedAt": STARTED}}
    seen = pod(name="flowers-launcher-1", role="launcher")
    seen["metadata"]["creationTimestamp"] = STARTED
    seen["status"] = {"phase": "Failed", "containerStatuses": [{"name": "launcher", "state": state}]}
    assert observe.launcher(prune(seen)) == observe.launcher(seen)
    found = observe.launcher(seen).report
    assert found is not None
    assert found.rank == 1
    seen["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    assert observe.launcher(prune(seen)) == observe.launcher(seen)
