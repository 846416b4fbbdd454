"""A kind cluster with two nodes, which can be restarted after Docker or the machine was stopped."""

import json
import time
from typing import Any

from hack.devenv import leftovers, volumes
from hack.devenv.choice import image_source
from hack.devenv.engine import container_runs
from hack.devenv.nodes import NODES, PODS, kubectl, own_nodes, ready
from hack.devenv.places import CLUSTER, KIND, KUBECONFIG, VOLUMES
from hack.devenv.registry import MIRRORS
from hack.devenv.registry import NAME as REGISTRY_CONTAINER
from hack.devenv.shell import CommandFailed, output, run, succeeds
from hack.devenv.steps import STEPS, Input, digest, say, step

CERTS = "/etc/containerd/certs.d"


def configuration() -> dict[str, Any]:
    """kind's configuration: two nodes that share a directory of this machine and pull from the local registry."""
    source = image_source()
    mounts = [
        {"hostPath": str(VOLUMES), "containerPath": volumes.IN_NODE},
        {"hostPath": str(MIRRORS), "containerPath": CERTS, "readOnly": True},
    ]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": CLUSTER,
        "networking": {"podSubnet": PODS, "disableDefaultCNI": source.pod_network is not None},
        "containerdConfigPatches": [f'[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "{CERTS}"\n'],
        "nodes": [
            {"role": role, **(source.node_fields or {}), "extraMounts": mounts} for role in ("control-plane", "worker")
        ],
    }


def healthy() -> bool:
    """Whether all nodes are Ready and every node reaches the DNS pods and the registry."""
    network = image_source().pod_network
    if not KUBECONFIG.is_file() or not all(container_runs(each) for each in NODES):
        return False
    try:
        nodes = own_nodes()
        return (
            len(nodes) == len(NODES)
            and all(ready(each) for each in nodes)
            and _names_resolve()
            and (network is None or network.intact())
            and REGISTRY_CONTAINER in output("docker", "network", "inspect", "kind")
        )
    except CommandFailed:
        return False


def _names_resolve() -> bool:
    """Check the DNS pods directly, because their status in the API is stale for 30 s after a restart."""
    selector = ("--namespace=kube-system", "--selector=k8s-app=kube-dns", "--output=json")
    pods = json.loads(kubectl("get", "pods", *selector))["items"]
    addresses = [pod["status"].get("podIP") for pod in pods]
    if not addresses or not all(addresses):
        return False
    asked = [f"http://{address}:8181/ready" for address in addresses]
    curl = ("curl", "--silent", "--fail", "--output", "/dev/null", "--max-time", "2")
    return all(ready(pod) for pod in pods) and all(
        succeeds("docker", "exec", name, *curl, url) for name in NODES for url in asked
    )


def _inputs() -> list[Input]:
    return [json.dumps(configuration()), KIND, *image_source().node_inputs()]


@step(
    "cluster",
    f"creating a Kubernetes cluster with {len(NODES)} nodes",
    needs=("tools", "node", "registry"),
    inputs=_inputs,
    present=lambda: healthy() and not leftovers.exist(),
)
def cluster() -> None:
    stamp = STEPS["cluster"].stamp
    made_so = stamp.is_file() and stamp.read_text() == digest(_inputs())
    if made_so and all(succeeds("docker", "inspect", each) for each in NODES):
        run("docker", "start", *NODES)
        try:
            finish(90)
            return
        except CommandFailed as error:
            say(f"    Restarting the cluster failed ({error}); creating a new one")
    create()
    finish(180)


def create() -> None:
    remove()
    for folder in (VOLUMES, MIRRORS):
        folder.mkdir(parents=True, exist_ok=True)
    run(
        *("kind", "create", "cluster", "--config=-", f"--kubeconfig={KUBECONFIG}", *image_source().kind_arguments),
        stdin=json.dumps(configuration()),
    )
    # A new training must not resume from old checkpoints, and deleting them could lose results.
    volumes.put_aside()


def remove() -> None:
    run("kind", "delete", "cluster", f"--name={CLUSTER}", f"--kubeconfig={KUBECONFIG}")


def finish(patience: float) -> None:
    """Complete the cluster that kind created, with idempotent commands, and wait until it is healthy."""
    deadline = time.monotonic() + patience
    wait_until(
        lambda: succeeds("kubectl", f"--kubeconfig={KUBECONFIG}", "get", "--raw=/readyz"), deadline, "the API server"
    )
    if not succeeds("docker", "network", "inspect", "kind") or REGISTRY_CONTAINER not in output(
        "docker", "network", "inspect", "kind"
    ):
        run("docker", "network", "connect", "kind", REGISTRY_CONTAINER)
    if network := image_source().pod_network:
        wait_until(network.assigned, deadline, "the nodes' pod networks")
        network.connect()
    # Pods may run on the control-plane node, so that two ranks run on two nodes.
    succeeds(
        *("kubectl", f"--kubeconfig={KUBECONFIG}", "taint", "nodes", "--all"), "node-role.kubernetes.io/control-plane-"
    )
    wait_until(healthy, deadline, "Ready nodes and DNS")
    leftovers.delete()
    volumes.create()


def wait_until(true: Any, deadline: float, what: str) -> None:
    while not true():
        if time.monotonic() > deadline:
            raise CommandFailed(f"timed out waiting for {what}")
        time.sleep(1)
