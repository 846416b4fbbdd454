"""Workers get the values of environment variables from Secrets of their namespace."""

from tests.support.kube import ONE_WORKER, SMALL_NETWORK, Cluster

REFERENCE = {"secretKeyRef": {"name": "tracker", "key": "token"}}
SYNTHETIC = {"dataset": None, "training": {"model": SMALL_NETWORK, "data": {"format": "synthetic"}, "epochs": 2000}}


def test_rank_gets_value_of_secret(cluster: Cluster, training):
    """Workers wait for the Secret. No service account token is mounted, and the manifests do not contain the value."""
    name = training(workers={**ONE_WORKER, "env": [{"name": "TRACKER_TOKEN", "valueFrom": REFERENCE}]}, **SYNTHETIC)
    cluster.until(name, lambda status: status.get("reason") == "ContainerNotStarting")
    assert 'secret "tracker" not found' in cluster.condition(name, "Scheduled")["message"]
    assert "create Secret tracker" in " ".join(cluster.kubectl("describe", "rnx", name).split())
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tracker"}, "stringData": {"token": "of-e2e"}}
    cluster.apply(secret)
    try:
        cluster.until(name, lambda status: (status.get("progress") or {}).get("step", 0) > 0)
        (worker,) = cluster.pods(name, "worker")
        script = "tr '\\0' '\\n' < /proc/$(cat /run/resnext/ranks/0.pid)/environ; ls /var/run/secrets 2>&1 || true"
        found = cluster.kubectl("exec", worker["metadata"]["name"], "--", "sh", "-c", script)
        assert "TRACKER_TOKEN=of-e2e\n" in found
        assert "No such file or directory" in found
        kinds = "pods,configmaps,rnx"
        assert "of-e2e" not in cluster.kubectl("get", kinds, "-l", f"resnext.dev/training={name}", "-o", "json")
    finally:
        cluster.kubectl("delete", "secret", "tracker")
