"""The life of a training on the real cluster, from kubectl apply to its accuracy in Prometheus."""

import re
import time
from functools import partial

import pytest

from tests.support.kube import NAMESPACE, SMALL_NETWORK, SYSTEM, Cluster, Manifest, eventually
from tests.support.monitoring import dashboard_queries, recording_rules

# Takes about 30 s on two cores: long enough for a fault in the middle, short enough to wait for the end.
LONG = {"model": SMALL_NETWORK, "epochs": 16, "checkpoint": {"intervalEpochs": 1}}


def steps_done(status):
    return (status.get("progress") or {}).get("step", 0)


def saved(status):
    return (status.get("checkpoint") or {}).get("step", 0)


def succeeded(status):
    return status.get("phase") == "Succeeded"


def steps_until_success(cluster: Cluster, name: str) -> list[int]:
    """Completed steps that the status reports until the training succeeds."""
    seen: list[int] = []

    def finished(status: Manifest) -> bool:
        seen.append(steps_done(status))
        return bool(succeeded(status))

    cluster.until(name, finished, seconds=420)
    return seen


def condition(status, kind):
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})


def live(pods):
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def values(result):
    """Values of an instant query."""
    return [float(each["value"][1]) for each in result]


def test_digits_reach_accuracy_and_export_metrics(cluster: Cluster, training, record_property):
    """Two workers train to 97 %, every query of dashboards and rules returns data, and no rule fails."""
    started = time.monotonic()
    name = training()
    cluster.until(name, steps_done)
    record_property("kubectl apply to first step", time.monotonic() - started)
    cluster.until(name, lambda status: status.get("phase") == "Running" and steps_done(status) > 40)
    workers = cluster.pods(name, "worker")
    assert len({pod["spec"]["nodeName"] for pod in workers}) == 2

    table = cluster.kubectl("get", "rnx", name)
    header, row = table.splitlines()
    assert header.split() == ["NAME", "PHASE", "WORKERS", "EPOCH", "IMAGES/S", "TOP-1", "PROGRESS", "AGE"]
    assert "Running" in row
    assert "2/2" in row

    selector = f'{{namespace="{NAMESPACE}",training="{name}"}}'
    # A rate needs two scrapes, five seconds apart.
    rate = f"sum by (rank) (rate(resnext_trainer_images_total{selector}[1m])) > 0"
    ranks = eventually(
        lambda: found if len(found := cluster.query(rate)) == 2 else None, "images per second of two ranks"
    )
    assert {each["metric"]["rank"] for each in ranks} == {"0", "1"}

    cluster.kubectl("wait", "--for=condition=Succeeded", f"rnx/{name}", "--timeout=280s")
    status = cluster.status(name)
    top1 = float(status["progress"]["top1"])
    assert top1 >= 0.97
    eventually(lambda: not live(cluster.pods(name, "worker")), "the deletion of the workers")
    assert len(live(cluster.pods(name, "launcher"))) == 1, "for its log"
    accuracy = f'resnext_training_accuracy_ratio{{namespace="{NAMESPACE}",training="{name}",k="1"}}'
    eventually(lambda: values(cluster.query(accuracy)) == pytest.approx([top1], abs=1e-3), f"accuracy {top1}")
    claim = cluster.get("pvc", f"{name}-checkpoints")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    for query in [*dashboard_queries(NAMESPACE, name, SYSTEM), *recording_rules()]:
        # Over the last minutes, because the pods of a finished training are deleted.
        past = f"last_over_time(({query})[10m:5s])"
        eventually(partial(cluster.query, past), f"data for {query}")
    rules = cluster.prometheus("rules")["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}


def test_info_metric_reports_dali_xla_and_bf16(cluster: Cluster, training):
    """The labels of resnext_trainer_info match the configuration."""
    name = training(
        training={
            "model": SMALL_NETWORK,
            "epochs": 2,
            "data": {"pipeline": "dali"},
            "xla": True,
            "precision": {"mode": "bf16"},
        },
    )
    cluster.until(name, succeeded, seconds=420)
    expression = f'last_over_time(resnext_trainer_info{{namespace="{NAMESPACE}",training="{name}",rank="0"}}[10m])'
    info = eventually(lambda: cluster.query(expression), "the labels of rank 0")[0]["metric"]
    expected = {
        "architecture": "custom",
        "precision": "bf16",
        "xla": "true",
        "pipeline": "dali",
        "device": "cpu",
        "world_size": "2",
    }
    assert {label: info[label] for label in expected} == expected


@pytest.mark.parametrize("options", [("--grace-period=0", "--force"), ()], ids=["at once", "with time to save"])
def test_lost_worker_resumes_from_last_checkpoint(cluster: Cluster, training, options, record_property):
    """Only steps after the last checkpoint are repeated."""
    name = training(training=LONG)
    cluster.until(name, lambda status: saved(status) >= 40)
    (victim,) = (
        pod["metadata"]["name"] for pod in cluster.pods(name, "worker") if "-worker-1-" in pod["metadata"]["name"]
    )
    lost = time.monotonic()
    cluster.kubectl("delete", "pod", victim, "--wait=false", *options)
    cluster.until(name, lambda status: len(status["attempts"]) == 2)
    kept = saved(cluster.status(name))
    seen: list[int] = []

    def trains_again(status: Manifest) -> bool:
        seen.append(steps_done(status))
        resumed: int | None = status["attempts"][-1].get("resumedStep")
        return resumed is not None and seen[-1] > resumed

    cluster.until(name, trains_again)
    record_property("deletion of a worker to first step of the next attempt", time.monotonic() - lost)
    seen += steps_until_success(cluster, name)
    assert kept >= 40
    assert min(seen) >= kept
    resumed = re.search(r"resuming from step (\d+),", cluster.kubectl("logs", f"{name}-launcher-2"))
    assert resumed is not None
    assert int(resumed[1]) >= kept
    status = cluster.status(name)
    assert status["attempts"][0]["cause"] in ("disrupted", "stopped")
    assert status.get("failures", 0) == 0


@pytest.mark.exclusive
def test_operator_restart_changes_no_child(cluster: Cluster, training):
    """The training continues without a new attempt."""
    name = training(training={**LONG, "epochs": 8})
    cluster.until(name, lambda status: steps_done(status) > 20)
    before = cluster.children(name)
    cluster.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", namespace=SYSTEM)
    cluster.kubectl("rollout", "status", "deployment/resnext-operator", "--timeout=60s", namespace=SYSTEM)
    step = steps_done(cluster.status(name))
    cluster.until(name, lambda status: steps_done(status) > step + 20 or succeeded(status))
    assert cluster.children(name) == before or succeeded(cluster.status(name))
    cluster.until(name, succeeded)
    assert len(cluster.status(name)["attempts"]) == 1


def test_suspend_saves_and_resume_continues(cluster: Cluster, training):
    """Suspending saves a checkpoint and deletes all pods; resuming repeats no saved step."""
    name = training(training=LONG)
    cluster.until(name, lambda status: saved(status) >= 40)
    cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    cluster.until(name, lambda status: status.get("phase") == "Suspended", seconds=90)
    status = cluster.status(name)
    stopped = status["attempts"][-1]
    assert (stopped["cause"], stopped["exitCode"]) == ("stopped", 75)
    assert saved(status) >= steps_done(status) > 0
    assert not cluster.objects("pods", f"resnext.dev/training={name}")
    cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    cluster.until(name, lambda status: status.get("phase") == "Running")
    seen = steps_until_success(cluster, name)
    assert min(seen) >= saved(status)


def test_missing_gpus_are_reported_as_unschedulable(cluster: Cluster, training):
    """The condition Scheduled names nvidia.com/gpu."""
    cluster.apply(claim("imagenet", "ReadOnlyMany"), claim("resnext-250ep-checkpoints", "ReadWriteOnce"))
    name = training("resnext-250ep")
    message = cluster.until(
        name, lambda status: (it := condition(status, "Scheduled")).get("status") == "False" and it["message"]
    )
    assert "nvidia.com/gpu" in message
    assert cluster.status(name)["phase"] == "Pending"


@pytest.fixture
def nodes_with_gpus(cluster: Cluster):
    """Each node advertises one GPU that does not exist."""
    nodes = [node["metadata"]["name"] for node in cluster.objects("nodes")]
    for node in nodes:
        patch_capacity(cluster, node, '{"op":"add","path":"/status/capacity/nvidia.com~1gpu","value":"1"}')
    yield nodes
    for node in nodes:
        patch_capacity(cluster, node, '{"op":"remove","path":"/status/capacity/nvidia.com~1gpu"}')


def test_unusable_gpu_fails_without_cpu_fallback(cluster: Cluster, training, nodes_with_gpus):
    """The attempt ends with exit code 7."""
    name = training(
        "resnext-250ep",
        dataset={"claimName": "digits-data"},
        checkpoints={"template": {"size": "1Gi"}},
        workers={
            "sharedMemory": "128Mi",
            "resources": {"requests": {"cpu": "250m", "memory": "768Mi"}, "limits": {"nvidia.com/gpu": 1}},
        },
        runPolicy={"backoffLimit": 0},
    )
    seen = {}

    def failed(status):
        for role in ("worker", "launcher"):
            for pod in cluster.pods(name, role):
                seen[pod["metadata"]["name"]] = pod
        return status.get("phase") == "Failed"

    cluster.until(name, failed)
    limits = {
        pod: each["spec"]["containers"][0]["resources"].get("limits", {}).get("nvidia.com/gpu")
        for pod, each in seen.items()
    }
    assert limits == {f"{name}-worker-0-0": "1", f"{name}-worker-1-0": "1", f"{name}-launcher-1": None}
    assert {seen[f"{name}-worker-{index}-0"]["spec"]["nodeName"] for index in (0, 1)} == set(nodes_with_gpus)
    (attempt,) = cluster.status(name)["attempts"]
    assert attempt["exitCode"] == 7
    assert "no GPU is usable" in attempt["message"]


@pytest.fixture
def no_operator(cluster: Cluster):
    """Scale the operator down when called; it is restored afterwards."""
    yield lambda: scale(cluster, 0)
    scale(cluster, 1)


def test_deletion_removes_children_except_checkpoints(cluster: Cluster, training):
    """Pods terminate, and everything except the checkpoints is deleted."""
    name = training(training=LONG)
    cluster.until(name, lambda status: saved(status) >= 20)
    delete(cluster, name)


@pytest.mark.exclusive
def test_deletion_without_operator_removes_children(cluster: Cluster, training, no_operator):
    """The garbage collector needs no finalizer of the operator."""
    name = training(training=LONG)
    cluster.until(name, lambda status: saved(status) >= 20)
    no_operator()
    delete(cluster, name)


def delete(cluster: Cluster, name: str) -> None:
    """Delete a training; only its checkpoint claim may remain."""
    cluster.kubectl("delete", "rnx", name, "--timeout=30s")
    kinds = "pods,configmaps,networkpolicies,secrets"
    eventually(lambda: not cluster.objects(kinds, f"resnext.dev/training={name}"), "the end of all children", 120)
    assert cluster.get("pvc", f"{name}-checkpoints")["status"]["phase"] == "Bound"


def scale(cluster: Cluster, replicas: int) -> None:
    operator = "deployment/resnext-operator"
    cluster.kubectl("scale", operator, f"--replicas={replicas}", namespace=SYSTEM)
    cluster.kubectl("rollout", "status", operator, "--timeout=60s", namespace=SYSTEM)
    if not replicas:
        eventually(lambda: not cluster.objects("pods", namespace=SYSTEM), "the operator's end")


def patch_capacity(cluster: Cluster, node: str, operation: str) -> None:
    cluster.run("kubectl", "patch", "node", node, "--subresource=status", "--type=json", "-p", f"[{operation}]")


def claim(name: str, mode: str) -> Manifest:
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
