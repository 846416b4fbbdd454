"""What a user changes on the way, and what goes by itself."""

import pytest

from tests.support.kube import Cluster, Refused


def saved(status):
    return (status.get("checkpoint") or {}).get("step", 0)


def test_another_number_of_workers_goes_on_from_the_checkpoint(cluster: Cluster, training):
    name = training(training={"epochs": 12})
    cluster.until(name, lambda status: saved(status) >= 22)
    with pytest.raises(Refused, match="suspend first"):
        cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", '{"spec":{"workers":{"nodeSelector":{"a":"b"}}}}')
    cluster.kubectl("scale", "rnx", name, "--replicas=1")
    cluster.until(name, lambda status: len(status["attempts"]) == 2 and status.get("phase") == "Running")
    assert len(cluster.pods(name, "worker")) == 1
    log = cluster.kubectl("logs", f"{name}-launcher-2")
    assert "on 1 x cpu" in log
    assert "resuming from step" in log
    cluster.until(name, lambda status: status.get("phase") == "Succeeded", seconds=420)
    assert cluster.status(name).get("failures", 0) == 0


def test_a_finished_training_goes_after_its_time_to_live(cluster: Cluster, training):
    name = training(training={"epochs": 1}, runPolicy={"ttlSecondsAfterFinished": 3})
    cluster.until(name, lambda status: status.get("phase") == "Succeeded")
    cluster.kubectl("wait", "--for=delete", f"rnx/{name}", "--timeout=60s")
    assert cluster.get("pvc", f"{name}-checkpoints")["status"]["phase"] == "Bound"
