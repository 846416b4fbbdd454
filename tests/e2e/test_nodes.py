"""Lost and drained nodes. They take minutes because of the cluster's timeouts, so only `make test-faults` runs them."""

import re
import time

import pytest

from tests.support.kube import Cluster, in_node

pytestmark = pytest.mark.exclusive

LONG = {"epochs": 120, "checkpoint": {"intervalEpochs": 1}}


def saved(status):
    return (status.get("checkpoint") or {}).get("step", 0)


def running_in_attempt(number):
    return lambda status: len(status.get("attempts", ())) == number and status.get("phase") == "Running"


@pytest.fixture
def worker_node(cluster: Cluster):
    """The worker node; it is schedulable again afterwards."""
    (name,) = (
        node["metadata"]["name"]
        for node in cluster.objects("nodes")
        if "node-role.kubernetes.io/control-plane" not in node["metadata"]["labels"]
    )
    yield name
    in_node(name, "systemctl start kubelet")
    cluster.run("kubectl", "uncordon", name)
    cluster.run("kubectl", "wait", "--for=condition=Ready", f"node/{name}", "--timeout=120s")


def test_worker_on_lost_node_is_replaced(cluster: Cluster, training, worker_node):
    """The old pod stays in Terminating in the meantime; training resumes from the checkpoint."""
    name = training(training=LONG)
    cluster.until(name, lambda status: saved(status) >= 22)
    (lost,) = (pod for pod in cluster.pods(name, "worker") if pod["spec"]["nodeName"] == worker_node)
    named = re.search(r"-worker-(\d+)-0$", lost["metadata"]["name"])
    assert named is not None
    index = named[1]
    in_node(worker_node, "systemctl stop kubelet")
    # The node is marked unreachable after 50 s and the pod is evicted 30 s later; then a new attempt starts.
    cluster.until(name, running_in_attempt(2), seconds=420)
    status = cluster.status(name)
    assert status.get("failures", 0) == 0
    assert status["disruptions"] == 1
    assert status["attempts"][0]["cause"] == "disrupted"
    assert status["attempts"][1]["checkpointStepBefore"] >= 22
    hanging = cluster.get("pod", lost["metadata"]["name"])
    assert "deletionTimestamp" in hanging["metadata"]
    successor = cluster.get("pod", f"{name}-worker-{index}-1")
    assert successor["spec"]["nodeName"] != worker_node


def test_drained_node_loses_no_steps(cluster: Cluster, training, worker_node):
    """The ranks save within 60 s, and the workers move to another node."""
    name = training(training=LONG)
    cluster.until(name, lambda status: saved(status) >= 22)
    began = time.monotonic()
    drained = (worker_node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
    cluster.run("kubectl", "drain", *drained, f"--pod-selector=resnext.dev/training={name}")
    assert time.monotonic() - began < 60, "the ranks save and exit"
    cluster.until(name, running_in_attempt(2), seconds=120)
    status = cluster.status(name)
    assert status.get("failures", 0) == 0
    assert status["attempts"][1]["checkpointStepBefore"] >= 22
    assert {pod["spec"]["nodeName"] for pod in cluster.pods(name, "worker")}.isdisjoint({worker_node})
