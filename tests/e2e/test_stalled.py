"""A stuck rank is reported as Stalled. Each test waits for minutes, so only `make test-faults` runs them."""

from tests.support.kube import Cluster

LONG = {"epochs": 120, "checkpoint": {"intervalEpochs": 1}}
STOP, CONTINUE = "STOP", "CONT"


def signal(cluster: Cluster, pod: str, name: str) -> None:
    cluster.kubectl("exec", pod, "--", "sh", "-c", f"kill -{name} $(cat /run/resnext/ranks/0.pid)")


def test_stall_is_reported_cleared_and_ended_as_hung(cluster: Cluster, training):
    """A resumed rank clears the condition; a stall past its deadline ends the attempt as hung."""
    # A long timeout, so that the operator detects the stall before the ranks' watchdog.
    policy = {"stallTimeoutMultiple": 2, "stallDeadlineSeconds": 45}
    name = training(training={**LONG, "stallTimeoutSeconds": 600}, runPolicy=policy)
    pod = f"{name}-worker-1-0"

    def saved(status):
        return (status.get("checkpoint") or {}).get("step", 0)

    def stalled(wanted):
        return lambda _: cluster.condition(name, "Stalled").get("status") == wanted

    cluster.until(name, lambda status: saved(status) >= 22)
    signal(cluster, pod, STOP)
    cluster.until(name, stalled("True"), seconds=120)
    stands = cluster.condition(name, "Stalled")
    assert stands["reason"] == "Stalled"
    assert "rank 1 does not respond" in stands["message"]
    assert "rank 0 at " in stands["message"]
    signal(cluster, pod, CONTINUE)
    cluster.until(name, stalled("False"), seconds=30)
    assert cluster.condition(name, "Stalled")["reason"] == "ProgressResumed"
    assert cluster.status(name).get("failures", 0) == 0

    kept = saved(cluster.status(name))
    signal(cluster, pod, STOP)
    cluster.until(name, stalled("True"), seconds=120)
    cluster.until(name, lambda status: status.get("failures") == 1, seconds=120)
    attempt = cluster.status(name)["attempts"][0]
    assert attempt["cause"] == "hung"
    assert "rank 1 does not respond" in attempt["message"]
    step = cluster.status(name)["progress"]["step"]
    assert kept <= saved(cluster.status(name)) <= step
    cluster.until(name, lambda status: len(status["attempts"]) == 2 and status["phase"] == "Running")
    # The next attempt progresses, so no process of the stuck rank is left in its pod.
    cluster.until(name, lambda status: status["progress"]["step"] > step)
    assert cluster.condition(name, "Stalled")["status"] == "False"
    described = " ".join(cluster.kubectl("describe", "rnx", name).split())
    for event in ("Warning Stalled", "Normal ProgressResumed", "Warning Hung"):
        assert event in described
