"""Failures of real pods: failed starts, out of memory, eviction and hangs."""

import json
import os
from datetime import datetime

import pytest

from tests.support.kube import NAMESPACE, SMALL_NETWORK, Cluster, Manifest, eventually, sample

# Longer than any of these tests waits.
LONG = {"model": SMALL_NETWORK, "epochs": 120, "checkpoint": {"intervalEpochs": 1}}
SYNTHETIC = {"dataset": None, "training": {"data": {"format": "synthetic", "syntheticImages": 64}}}
# Unique per run: no waiting for the deletion of the previous run's namespace.
QUOTA = f"e2e-quota-{os.getpid()}"


def saved(status):
    return (status.get("checkpoint") or {}).get("step", 0)


def failed(status):
    return status.get("phase") == "Failed"


def in_attempt(number):
    return lambda status: len(status.get("attempts", ())) == number and status.get("phase") == "Running"


def worker(cluster: Cluster, name: str, index: int) -> Manifest:
    """The newest pod of a worker."""
    pods = [pod for pod in cluster.pods(name, "worker") if f"-worker-{index}-" in pod["metadata"]["name"]]
    return max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])


@pytest.fixture
def no_quota(cluster: Cluster):
    """A namespace whose quota admits no pod."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": QUOTA}})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.apply(quota, namespace=QUOTA)
    yield QUOTA
    cluster.run("kubectl", "delete", "namespace", QUOTA, "--wait=false")


def test_pods_failing_to_start_report_reason(cluster: Cluster, training, no_quota):
    """Four causes are tested in parallel, because each mostly waits: a missing image, no fitting node, an exhausted
    quota, and too little memory."""
    deadline = {"runPolicy": {"pendingDeadlineSeconds": 10}}
    waiting = {
        training(suffix="-image", image="localhost:5001/no-such-image:1", **deadline, **SYNTHETIC): (
            "no-such-image",
            "is not starting: ",
            "check the image reference and the pull Secret",
        ),
        training(suffix="-node", workers={"nodeSelector": {"disk": "no-such"}}, **deadline, **SYNTHETIC): (
            "didn't match Pod's node affinity/selector",
            "is unschedulable: 0/2 nodes are available",
            "check spec.workers.nodeSelector and spec.workers.affinity",
        ),
    }
    limits = {"limits": {"memory": "200Mi"}, "requests": {"cpu": "250m", "memory": "100Mi"}}
    small = training(
        suffix="-memory",
        workers={"replicas": 1, "resources": limits},
        runPolicy={"backoffLimit": 0, "cleanPodPolicy": "None"},
    )
    cluster.apply(sample("resnext-digits", "refused", {**SYNTHETIC, **deadline}), namespace=no_quota)

    for name, (why, event, remedy) in waiting.items():
        cluster.until(name, failed)
        end = cluster.condition(name, "Failed")
        assert end["reason"] == "PendingDeadlineExceeded"
        assert why in end["message"]
        described = " ".join(cluster.kubectl("describe", "rnx", name).split())
        assert event in described
        assert remedy in described
        assert "attempts" not in cluster.status(name)

    cluster.until(small, failed)
    (attempt,) = cluster.status(small)["attempts"]
    assert attempt["cause"] == "out_of_memory"
    assert attempt["pod"] == f"{small}-worker-0-0"
    assert "at its memory limit of 200Mi" in attempt["message"]
    assert cluster.condition(small, "Failed")["reason"] == "BackoffLimitExceeded"
    assert len(cluster.pods(small, "worker")) == 1, "cleanPodPolicy None"

    def ended() -> Manifest | None:
        conditions = cluster.status("refused", no_quota).get("conditions", ())
        return next((each for each in conditions if each["type"] == "Failed" and each["status"] == "True"), None)

    end = eventually(ended, "the end of the training without quota")
    assert end["reason"] == "PendingDeadlineExceeded"
    assert "exceeded quota" in end["message"]


def test_evicted_worker_and_lost_secret_replace_workers(cluster: Cluster, training):
    """A new Secret replaces all workers; training resumes from the checkpoint."""
    # On one node, where old pods still terminate and the kubelet may have cached the old Secret.
    node = cluster.objects("nodes")[-1]["metadata"]["labels"]["kubernetes.io/hostname"]
    name = training(training=LONG, workers={"nodeSelector": {"kubernetes.io/hostname": node}})
    cluster.until(name, lambda status: saved(status) >= 22)
    before = {pod["metadata"]["uid"] for pod in cluster.pods(name, "worker")}
    cluster.kubectl("delete", "secret", f"{name}-ssh")
    evict(cluster, worker(cluster, name, 1)["metadata"]["name"])
    cluster.until(name, in_attempt(2))
    kept = cluster.status(name)["attempts"][1]["checkpointStepBefore"]
    assert kept >= 22
    pods = cluster.pods(name, "worker")
    assert not before & {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}
    keys = cluster.get("secret", f"{name}-ssh")["metadata"]["uid"]
    assert {pod["metadata"]["labels"]["resnext.dev/ssh-secret-uid"] for pod in pods} == {keys}
    status = cluster.status(name)
    assert status.get("failures", 0) == 0
    assert status["attempts"][0]["cause"] in ("disrupted", "stopped")


def evict(cluster: Cluster, pod: str) -> None:
    """Evicts a pod, as `kubectl drain` does."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    cluster.run("kubectl", "create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def test_hung_rank_ends_attempt_and_is_counted(cluster: Cluster, training):
    """The watchdog ends the attempt; the next one resumes after a backoff."""
    # The watchdog starts with the first step.
    name = training(training={**LONG, "stallTimeoutSeconds": 25})
    cluster.until(name, lambda status: saved(status) >= 22)
    pod = worker(cluster, name, 1)["metadata"]["name"]
    cluster.kubectl("exec", pod, "--", "sh", "-c", "kill -STOP $(cat /run/resnext/ranks/0.pid)")
    cluster.until(name, lambda status: status.get("failures") == 1)
    attempt = cluster.status(name)["attempts"][0]
    assert (attempt["cause"], attempt["exitCode"]) == ("hung", 8)
    assert (attempt["rank"], attempt["pod"]) == (1, pod)
    cluster.until(name, in_attempt(2))
    first, second = cluster.status(name)["attempts"]
    waited = datetime.fromisoformat(second["startTime"]) - datetime.fromisoformat(first["endTime"])
    assert waited.total_seconds() >= 9, "ten seconds after the first failure; times have a resolution of one second"
    assert second["checkpointStepBefore"] >= 22
    described = " ".join(cluster.kubectl("describe", "rnx", name).split())
    for event in ("Normal Accepted", "Warning Hung", "Normal LauncherCreated", "Normal StepsProgressing"):
        assert event in described
