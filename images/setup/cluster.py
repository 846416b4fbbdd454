"""A kind cluster of two nodes that comes back after Docker, or the machine, was stopped."""

import json
import time
from typing import Any

from images.setup import debian, definition, node, volumes
from images.setup.engine import container_runs
from images.setup.places import CLUSTER, KIND, KUBECONFIG, VOLUMES
from images.setup.registry import MIRRORS
from images.setup.registry import NAME as REGISTRY_CONTAINER
from images.setup.shell import CommandFailed, output, run, succeeds
from images.setup.steps import STEPS, Input, digest, say, step

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
    """All nodes are Ready, every node reaches the pods that resolve names, and the registry."""
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
    """The nodes that are containers; those that kwok plays are no concern of the cluster's health."""
    nodes: list[dict[str, Any]] = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    return [each for each in nodes if each["metadata"]["name"] in NODES]


def _names_resolve() -> bool:
    """Asked of the pods themselves: what the API says of them is stale for half a minute after a restart."""
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
    f"a Kubernetes cluster of {len(NODES)} nodes",
    needs=("tools", "node", "registry"),
    inputs=_inputs,
    present=lambda: healthy() and not definition.outdated(),
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
            say(f"    The stopped cluster did not come back ({error}): making a new one")
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
    # Left in place, a new training would resume from a stranger's checkpoint; deleted, work would be lost.
    volumes.put_aside()


def remove() -> None:
    run("kind", "delete", "cluster", f"--name={CLUSTER}", f"--kubeconfig={KUBECONFIG}")


def finish(patience: float) -> None:
    """What kind leaves to us, in commands that change nothing when repeated; then wait until all is well."""
    deadline = time.monotonic() + patience
    wait_until(lambda: succeeds("kubectl", f"--kubeconfig={KUBECONFIG}", "get", "--raw=/readyz"), deadline, "the API")
    if not succeeds("docker", "network", "inspect", "kind") or REGISTRY_CONTAINER not in output(
        "docker", "network", "inspect", "kind"
    ):
        run("docker", "network", "connect", "kind", REGISTRY_CONTAINER)
    if not debian.registry_answers():
        wait_until(lambda: all(_pod_network().values()), deadline, "the nodes' pod networks")
        connect()
    # The control plane takes pods too: two ranks then run on two nodes.
    succeeds(
        *("kubectl", f"--kubeconfig={KUBECONFIG}", "taint", "nodes", "--all"), "node-role.kubernetes.io/control-plane-"
    )
    wait_until(healthy, deadline, "Ready nodes and DNS")
    definition.delete_outdated()
    volumes.create()


def wait_until(true: Any, deadline: float, what: str) -> None:
    while not true():
        if time.monotonic() > deadline:
            raise CommandFailed(f"waited in vain for {what}")
        time.sleep(1)


def _pod_network() -> dict[str, str]:
    """Each node's share of the pods' addresses; empty until the controller manager has given it one."""
    networks = {each["metadata"]["name"]: each["spec"].get("podCIDR", "") for each in _own_nodes()}
    return dict.fromkeys(NODES, "") | networks


def _address(name: str) -> str:
    return output("docker", "inspect", "--format", "{{.NetworkSettings.Networks.kind.IPAddress}}", name)


MASQUERADE = ("POSTROUTING", "--source", PODS, "!", "--destination", PODS, "--jump", "MASQUERADE")


def _masquerades(name: str) -> bool:
    return succeeds("docker", "exec", name, "iptables", "--table=nat", "--check", *MASQUERADE)


def connect() -> None:
    """The pods' network where kind's own cannot be pulled: a link per pod, and one route per other node.

    Between pods no address is rewritten: Open MPI drops a peer whose address is not the one it announced, and its ranks
    then spin in MPI_Init for ever. Only what leaves the pods' network goes under the node's address.
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
