"""Two replicas of the operator: one leads, and the other takes over when it dies."""

from datetime import UTC, datetime

import pytest

from resnext_operator.runtime.leader_election import LEASE_DURATION
from tests.support.kube import ONE_WORKER, SMALL_NETWORK, SYSTEM, Cluster, eventually, in_node

pytestmark = pytest.mark.exclusive

OPERATOR = "deployment/resnext-operator"
SYNTHETIC = {"dataset": None, "training": {"data": {"format": "synthetic", "syntheticImages": 64}}}


@pytest.fixture
def two(cluster: Cluster):
    """Two replicas, ready."""
    try:
        scale(cluster, 2)
        yield
    finally:
        scale(cluster, 1)


def scale(cluster: Cluster, replicas: int) -> None:
    cluster.kubectl("scale", OPERATOR, f"--replicas={replicas}", namespace=SYSTEM)
    cluster.kubectl("rollout", "status", OPERATOR, "--timeout=90s", namespace=SYSTEM)


def lease(cluster: Cluster):
    return cluster.get("lease", "resnext-operator", namespace=SYSTEM)["spec"]


def seconds(since: datetime, lease) -> float:
    """Seconds from a time until the lease was acquired, by the operator's clock."""
    return (datetime.fromisoformat(lease["acquireTime"]) - since).total_seconds()


def kill(cluster: Cluster, pod: str) -> None:
    """Kill a pod's process with SIGKILL from its node, because process 1 cannot be killed from inside the pod."""
    found = cluster.get("pod", pod, namespace=SYSTEM)
    container = found["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    in_node(found["spec"]["nodeName"], f"ctr --namespace k8s.io tasks kill --signal SIGKILL {container}")


@pytest.mark.usefixtures("two")
def test_standby_takes_over_when_leader_dies(cluster: Cluster, training):
    """Running trainings continue, and nothing is created twice. A graceful shutdown releases the lease."""
    running = training(training={"model": SMALL_NETWORK, "epochs": 2000}, workers=ONE_WORKER)
    cluster.until(running, lambda status: (status.get("progress") or {}).get("step", 0) > 20)
    before, first = cluster.children(running), lease(cluster)
    assert first["holderIdentity"] in {pod["metadata"]["name"] for pod in cluster.objects("pods", namespace=SYSTEM)}

    kill(cluster, first["holderIdentity"])
    killed = datetime.now(UTC)
    made = training(suffix="-made", workers={"nodeSelector": {"disk": "no-such"}}, **SYNTHETIC)
    eventually(lambda: len(cluster.pods(made, "worker")) == 2, "the workers")
    led = lease(cluster)
    assert led["leaseTransitions"] > first.get("leaseTransitions", 0)
    assert seconds(killed, led) < LEASE_DURATION + 5, "the lease duration plus a few seconds"
    assert cluster.children(running) == before, "running pods are unchanged"
    kinds = [each.partition("/")[0] for each in cluster.children(made)]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Pod": 2, "ConfigMap": 1, "NetworkPolicy": 1}

    # On SIGTERM the leader releases the lease, so the other replica need not wait until it expires.
    leader = led["holderIdentity"]
    deleted_at = datetime.now(UTC)
    cluster.kubectl("delete", "pod", leader, "--timeout=60s", namespace=SYSTEM)
    assert (datetime.now(UTC) - deleted_at).total_seconds() < 20, "a graceful shutdown; it would be killed after 30 s"
    eventually(lambda: lease(cluster)["holderIdentity"] not in ("", leader), "another leader")
    assert 0 < seconds(deleted_at, lease(cluster)) < LEASE_DURATION
    step = cluster.status(running)["progress"]["step"]
    cluster.until(running, lambda status: status["progress"]["step"] > step)
    assert len(cluster.status(running)["attempts"]) == 1
    assert cluster.children(running).items() >= {k: v for k, v in before.items() if k.startswith("Pod/")}.items()
