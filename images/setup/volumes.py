"""Shared volumes: one folder of this machine, mounted into every node, cut into static volumes.

They are ReadWriteMany as network storage is, which kind's own provisioner does not offer. Nothing recycles them by
itself: `reset` empties those whose claim is gone.
"""

import json
from typing import Any

from images.setup.places import CLUSTER, KUBECONFIG
from images.setup.shell import output, run

CLASS = "shared"
COUNT = 48
IN_NODE = "/var/resnext-volumes"
OWNER = 1000  # the uid and gid of all our pods: fsGroup does not reach into hostPath volumes


def name(index: int) -> str:
    return f"resnext-volume-{index:02d}"


def storage_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }


def volume(index: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name(index)},
        "spec": {
            "storageClassName": CLASS,
            # Room for ImageNet, by name: the folder is as large as the disk is.
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"{IN_NODE}/{name(index)}", "type": "Directory"},
        },
    }


def kubectl(*arguments: str, stdin: str | None = None) -> None:
    run("kubectl", f"--kubeconfig={KUBECONFIG}", *arguments, stdin=stdin)


def apply(*objects: dict[str, Any]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(listed))


def in_node(script: str) -> None:
    """As the node's root, so that whoever runs Docker here need not be root."""
    run("docker", "exec", f"{CLUSTER}-control-plane", "sh", "-c", script)


def put_aside() -> None:
    """Move what an earlier cluster kept into the folder `earlier`, in place of what lay there."""
    full = "full=$(find resnext-volume-* -maxdepth 0 ! -empty 2> /dev/null)"
    move = "rm -rf earlier; mkdir earlier; mv -t earlier $full"
    in_node(f'cd {IN_NODE} && {full}; [ -z "$full" ] || {{ {move}; }}')


def create() -> None:
    folders = " ".join(f"{IN_NODE}/{name(index)}" for index in range(COUNT))
    in_node(f"mkdir -p {folders} && chown {OWNER}:{OWNER} {folders} && chmod 0770 {folders}")
    # Official node images bring a default class of their own, and there can be one only.
    kubectl("delete", "storageclass", "standard", "--ignore-not-found")
    apply(storage_class(), *(volume(index) for index in range(COUNT)))


def reset() -> int:
    """Empty the volumes whose claims are gone and offer them again; returns how many."""
    found = json.loads(output("kubectl", f"--kubeconfig={KUBECONFIG}", "get", "persistentvolumes", "--output=json"))
    ours = {name(index): index for index in range(COUNT)}
    existing = {each["metadata"]["name"]: each["status"].get("phase") for each in found["items"]}
    free = [each for each in ours if existing.get(each, "Released") in ("Released", "Failed")]
    if gone := [each for each in free if each in existing]:
        kubectl("delete", "persistentvolume", *gone)
    for each in free:
        in_node(f"find {IN_NODE}/{each} -mindepth 1 -delete")
    if free:
        apply(*(volume(ours[each]) for each in free))
    return len(free)
