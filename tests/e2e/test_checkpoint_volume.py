"""Checkpoints on hostPath, where fsGroup changes no owner: an unwritable directory is rejected at once."""

from collections.abc import Iterator

import pytest

from tests.support.kube import ONE_WORKER, SMALL_NETWORK, Cluster, Refused, in_node

# Rank 0 writes checkpoints: one rank is enough.
SMALL = {"training": {"model": SMALL_NETWORK, "epochs": 1}, "workers": ONE_WORKER}


class Volume:
    """The directory behind a claim, as the administrator of its storage sees it."""

    def __init__(self, cluster: Cluster, claim: str) -> None:
        cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{claim}", "--timeout=30s")
        volume = cluster.get("pvc", claim)["spec"]["volumeName"]
        self.path = cluster.get("pv", volume)["spec"]["hostPath"]["path"]
        self._node = cluster.objects("nodes")[0]["metadata"]["name"]

    def run(self, script: str) -> str:
        """Output of a script that runs as root in the directory, which every node mounts."""
        return in_node(self._node, f"cd {self.path}; {script}")


@pytest.fixture
def claim(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A claim for one test. Afterwards its directory belongs to the pods' user again."""
    name = "claim-" + request.node.originalname.removeprefix("test_").replace("_", "-")[:30].strip("-")
    resources = {"requests": {"storage": "1Gi"}}
    spec = {"accessModes": ["ReadWriteMany"], "resources": resources}
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
    yield name
    Volume(cluster, name).run("chown 1000:1000 . && chmod 0770 .")
    cluster.kubectl("delete", "pvc", name, "--ignore-not-found", "--timeout=60s")


@pytest.mark.parametrize("mode", ["0755", "0770"])
def test_root_owned_claim_fails_before_first_step(cluster: Cluster, training, claim, mode):
    """The message has owner, mode and remedy; it is not retried."""
    Volume(cluster, claim).run(f"chown root:root . && chmod {mode} .")
    name = training(suffix=f"-{mode}", checkpoints={"claimName": claim, "template": None}, **SMALL)
    cluster.until(name, lambda status: status.get("phase") == "Failed")
    status = cluster.status(name)
    (attempt,) = status["attempts"]
    assert attempt["exitCode"] == 2
    assert f"/checkpoints is not writable by uid 1000 (owner root, mode {mode}): change the owner" in attempt["message"]
    assert status.get("progress", {}).get("step", 0) == 0
    assert cluster.condition(name, "Failed")["reason"] == "InvalidConfiguration"


def test_sub_path_is_created_and_resumed(cluster: Cluster, training, claim):
    """The trainer creates it as its own user; the kubelet would create it as root."""
    checkpoints = {"claimName": claim, "template": None, "subPath": "runs/a"}
    name = training(checkpoints=checkpoints, **SMALL)
    cluster.until(name, lambda status: status.get("phase") == "Succeeded")
    assert cluster.status(name)["checkpoint"]["path"].startswith("/checkpoints/runs/a/")
    made = Volume(cluster, claim).run("stat --format '%u %a' runs runs/a").splitlines()
    assert [line.split()[0] for line in made] == ["1000", "1000"]
    assert all(line.endswith("770") for line in made)
    again = training(suffix="-again", checkpoints=checkpoints, **SMALL)
    cluster.until(again, lambda status: status.get("phase") == "Succeeded")
    assert "resuming from step" in cluster.kubectl("logs", f"{again}-launcher-1")


def test_symbolic_link_in_claim_fails_before_first_step(cluster: Cluster, training, claim):
    """A symbolic link is rejected regardless of its target."""
    Volume(cluster, claim).run("ln -s /tmp runs && chown -h 1000:1000 runs")
    name = training(checkpoints={"claimName": claim, "template": None, "subPath": "runs/a"}, **SMALL)
    cluster.until(name, lambda status: status.get("phase") == "Failed")
    assert "/checkpoints/runs is a symbolic link to /tmp" in cluster.status(name)["attempts"][0]["message"]


@pytest.mark.parametrize("path", ["/tmp/ck", "/checkpoints/../tmp", "checkpoints"])
def test_path_outside_claim_rejected_at_apply(training, path):
    """Files outside the claim would be lost with the pod."""
    with pytest.raises(Refused, match="must be /checkpoints or a directory below it"):
        training(training={"checkpoint": {"path": path}})
