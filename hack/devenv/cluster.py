"""A kind cluster with two nodes, which can be restarted after Docker or the machine was stopped."""

import json
import time
from typing import Any

from hack.devenv import leftovers, volumes
from hack.devenv.engine import container_runs
from hack.devenv.offline import debian, node
from hack.devenv.places import CLUSTER, KIND, KUBECONFIG, VOLUMES
from hack.devenv.registry import MIRRORS
from hack.devenv.registry import NAME as REGISTRY_CONTAINER
from hack.devenv.shell import CommandFailed, output, run, succeeds
from hack.devenv.steps import STEPS, Input, digest, say, step

NODES = (f"{CLUSTER}-control-plane", f"{CLUSTER}-worker")
PODS = "10.244.0.0/16"
CERTS = "/etc/containerd/certs.d"


def configuration() -> dict[str, Any]:
    mounts = [
        {"hostPath": str(VOLUMES), "containerPath": volumes.IN_NODE},
        {"hostPath": str(MIRRORS), "containerPath": CERTS, "readOnly": True},
    ]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": CLUSTER,
        "networking": {"podSubnet": PODS, "disableDefaultCNI": not debian.registry_answers()},
        "containerdConfigPatches": [f'[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "{CERTS}"\n'],
        "nodes": [{"role": role, "image": node.image(), "extraMounts": mounts} for role in ("control-plane", "worker")],
    }


def kubectl(*arguments: str, timeout: float = 30) -> str:
    return output("kubectl", f"--kubeconfig={KUBECONFIG}", "--request-timeout=10s", *arguments, timeout=timeout)


def healthy() -> bool:
    """Whether all nodes are Ready and every node reaches the DNS pods and the registry."""
    if not KUBECONFIG.is_file() or not all(container_runs(each) for each in NODES):
        return False
    try:
        nodes = _own_nodes()
        return (
            len(nodes) == len(NODES)
            and all(_ready(each) for each in nodes)
            and _names_resolve()
            and (debian.registry_answers() or all(_masquerades(each) for each in NODES))
            and REGISTRY_CONTAINER in output("docker", "network", "inspect", "kind")
        )
    except CommandFailed:
        return False


def _own_nodes() -> list[dict[str, Any]]:
    """The nodes that are containers, without those that kwok simulates."""
    nodes: list[dict[str, Any]] = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    return [each for each in nodes if each["metadata"]["name"] in NODES]


def _names_resolve() -> bool:
    """Check the DNS pods directly, because their status in the API is stale for 30 s after a restart."""
    selector = ("--namespace=kube-system", "--selector=k8s-app=kube-dns", "--output=json")
    pods = json.loads(kubectl("get", "pods", *selector))["items"]
    addresses = [pod["status"].get("podIP") for pod in pods]
    if not addresses or not all(addresses):
        return False
    asked = [f"http://{address}:8181/ready" for address in addresses]
    curl = ("curl", "--silent", "--fail", "--output", "/dev/null", "--max-time", "2")
    return all(_ready(pod) for pod in pods) and all(
        succeeds("docker", "exec", name, *curl, url) for name in NODES for url in asked
    )


def _ready(item: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in item["status"].get("conditions", []))


def _inputs() -> list[Input]:
    return [json.dumps(configuration()), KIND, *node.inputs()]


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
        *("kind", "create", "cluster", "--config=-", f"--kubeconfig={KUBECONFIG}"),
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
    if not debian.registry_answers():
        wait_until(lambda: all(_pod_network().values()), deadline, "the nodes' pod networks")
        connect()
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


def _pod_network() -> dict[str, str]:
    """The pod CIDR of each node; empty until the controller manager has assigned it."""
    networks = {each["metadata"]["name"]: each["spec"].get("podCIDR", "") for each in _own_nodes()}
    return dict.fromkeys(NODES, "") | networks


def _address(name: str) -> str:
    return output("docker", "inspect", "--format", "{{.NetworkSettings.Networks.kind.IPAddress}}", name)


MASQUERADE = ("POSTROUTING", "--source", PODS, "!", "--destination", PODS, "--jump", "MASQUERADE")


def _masquerades(name: str) -> bool:
    return succeeds("docker", "exec", name, "iptables", "--table=nat", "--check", *MASQUERADE)


def connect() -> None:
    """The pod network if kindnet cannot be pulled: a point-to-point link per pod, and a route to each other node.

    Traffic between pods is not masqueraded: Open MPI drops a peer whose address differs from the announced one, and its
    ranks then hang in MPI_Init. Only traffic that leaves the pod network is masqueraded.
    """
    networks = _pod_network()
    for name, network in networks.items():
        link = {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": network}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
        conflist = {
            "cniVersion": "0.3.1",
            "name": CLUSTER,
            "plugins": [link, {"type": "portmap", "capabilities": {"portMappings": True}}],
        }
        run(
            *("docker", "exec", "--interactive", name, "sh", "-c"),
            "mkdir -p /etc/cni/net.d && cat > /etc/cni/net.d/10-resnext.conflist",
            stdin=json.dumps(conflist),
        )
        for other, its_network in networks.items():
            if other != name:
                run("docker", "exec", name, "ip", "route", "replace", its_network, "via", _address(other))
        if not _masquerades(name):
            run("docker", "exec", name, "iptables", "--table=nat", "--append", *MASQUERADE)
