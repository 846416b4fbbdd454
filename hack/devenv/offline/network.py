"""A pod network without kindnet, which cannot be pulled: a link per pod, and a route to each other node.

Traffic between pods is not masqueraded: Open MPI drops a peer whose address differs from the announced one, and its
ranks then hang in MPI_Init. Only traffic that leaves the pod network is masqueraded.
"""

import json

from hack.devenv.nodes import NODES, PODS, own_nodes
from hack.devenv.places import CLUSTER
from hack.devenv.shell import output, run, succeeds

MASQUERADE = ("POSTROUTING", "--source", PODS, "!", "--destination", PODS, "--jump", "MASQUERADE")


def assigned() -> bool:
    """Whether the controller manager has assigned a pod CIDR to every node."""
    return all(_pod_networks().values())


def intact() -> bool:
    return all(_masquerades(each) for each in NODES)


def connect() -> None:
    networks = _pod_networks()
    for name, network in networks.items():
        run(
            *("docker", "exec", "--interactive", name, "sh", "-c"),
            "mkdir -p /etc/cni/net.d && cat > /etc/cni/net.d/10-resnext.conflist",
            stdin=json.dumps(conflist(network)),
        )
        for other, its_network in networks.items():
            if other != name:
                run("docker", "exec", name, "ip", "route", "replace", its_network, "via", _address(other))
        if not _masquerades(name):
            run("docker", "exec", name, "iptables", "--table=nat", "--append", *MASQUERADE)


def conflist(network: str) -> dict[str, object]:
    """The configuration of the CNI plugins on a node with this pod CIDR."""
    link = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": network}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    plugins = [link, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return {"cniVersion": "0.3.1", "name": CLUSTER, "plugins": plugins}


def _pod_networks() -> dict[str, str]:
    """The pod CIDR of each node; empty until it is assigned."""
    networks = {each["metadata"]["name"]: each["spec"].get("podCIDR", "") for each in own_nodes()}
    return dict.fromkeys(NODES, "") | networks


def _address(name: str) -> str:
    return output("docker", "inspect", "--format", "{{.NetworkSettings.Networks.kind.IPAddress}}", name)


def _masquerades(name: str) -> bool:
    return succeeds("docker", "exec", name, "iptables", "--table=nat", "--check", *MASQUERADE)
