"""Changes to a running training, and its deletion after the time to live."""

import pytest

from tests.support.kube import ONE_WORKER, SMALL_NETWORK, Cluster, Refused


def saved(status):
    return (status.get("checkpoint") or {}).get("step", 0)


def test_resize_resumes_from_checkpoint(cluster: Cluster, training):
    """Changing the pod template requires suspend; scaling does not."""
    name = training(training={"model": SMALL_NETWORK, "epochs": 16})
    cluster.until(name, lambda status: saved(status) >= 22)
    with pytest.raises(Refused, match=r"set spec\.suspend to true first"):
        cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", '{"spec":{"workers":{"nodeSelector":{"a":"b"}}}}')
    cluster.kubectl("scale", "rnx", name, "--replicas=1")
    cluster.until(name, lambda status: len(status["attempts"]) == 2 and status.get("phase") == "Running")
    assert len(cluster.pods(name, "worker")) == 1
    log = cluster.kubectl("logs", f"{name}-launcher-2")
    assert "on 1 x cpu" in log
    assert "resuming from step" in log
    cluster.until(name, lambda status: status.get("phase") == "Succeeded", seconds=420)
    assert cluster.status(name).get("failures", 0) == 0


def test_ttl_deletes_finished_training(cluster: Cluster, training):
    """The checkpoint claim stays."""
    name = training(
        training={"model": SMALL_NETWORK, "epochs": 1},
        workers=ONE_WORKER,
        runPolicy={"ttlSecondsAfterFinished": 3},
    )
    cluster.until(name, lambda status: status.get("phase") == "Succeeded")
    cluster.kubectl("wait", "--for=delete", f"rnx/{name}", "--timeout=60s")
    assert cluster.get("pvc", f"{name}-checkpoints")["status"]["phase"] == "Bound"
