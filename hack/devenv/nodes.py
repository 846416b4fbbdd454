"""The nodes of the cluster, and kubectl."""

import json
from typing import Any

from hack.devenv.places import CLUSTER, KUBECONFIG
from hack.devenv.shell import output

NODES = (f"{CLUSTER}-control-plane", f"{CLUSTER}-worker")
PODS = "10.244.0.0/16"
CTR = ("ctr", "--namespace=k8s.io", "images")
"""Beginning of the commands that manage the images of a node; they run inside the node."""


def kubectl(*arguments: str, timeout: float = 30) -> str:
    return output("kubectl", f"--kubeconfig={KUBECONFIG}", "--request-timeout=10s", *arguments, timeout=timeout)


def own_nodes() -> list[dict[str, Any]]:
    """The nodes that are containers, without those that kwok simulates."""
    nodes: list[dict[str, Any]] = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    return [each for each in nodes if each["metadata"]["name"] in NODES]


def ready(item: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in item["status"].get("conditions", []))
