"""Shared volumes: static PersistentVolumes in a host directory that is mounted into every node.

They support ReadWriteMany, as network storage does and kind's provisioner does not. They are not recycled
automatically: `reset` recycles released volumes.
"""

import json
from typing import Any

from hack.devenv.places import CLUSTER, KUBECONFIG
from hack.devenv.shell import output, run

CLASS = "shared"
COUNT = 48
IN_NODE = "/var/resnext-volumes"
OWNER = 1000  # uid and gid of the project's pods; fsGroup does not apply to hostPath volumes


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
            # Enough for claims of any dataset; hostPath volumes do not enforce it.
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
    """Run a script as root in a node, so that the caller need not be root."""
    run("docker", "exec", f"{CLUSTER}-control-plane", "sh", "-c", script)


def put_aside() -> None:
    """Move the files of an earlier cluster to the directory `earlier`, and delete its previous contents."""
    full = "full=$(find resnext-volume-* -maxdepth 0 ! -empty 2> /dev/null)"
    move = "rm -rf earlier; mkdir earlier; mv -t earlier $full"
    in_node(f'cd {IN_NODE} && {full}; [ -z "$full" ] || {{ {move}; }}')


def create() -> None:
    folders = " ".join(f"{IN_NODE}/{name(index)}" for index in range(COUNT))
    in_node(f"mkdir -p {folders} && chown {OWNER}:{OWNER} {folders} && chmod 0770 {folders}")
    # Official node images create a default StorageClass, and there should be only one.
    kubectl("delete", "storageclass", "standard", "--ignore-not-found")
    apply(storage_class(), *(volume(index) for index in range(COUNT)))


def reset() -> int:
    """Recycle the volumes whose claims were deleted; returns their number."""
    found = json.loads(output("kubectl", f"--kubeconfig={KUBECONFIG}", "get", "persistentvolumes", "--output=json"))
    ours = {name(index): index for index in range(COUNT)}
    existing = {each["metadata"]["name"]: each["status"].get("phase") for each in found["items"]}
    free = [each for each in ours if existing.get(each, "Released") in ("Released", "Failed")]
    if stale := [each for each in free if each in existing]:
        kubectl("delete", "persistentvolume", *stale)
    for each in free:
        in_node(f"find {IN_NODE}/{each} -mindepth 1 -delete")
    if free:
        apply(*(volume(ours[each]) for each in free))
    return len(free)
