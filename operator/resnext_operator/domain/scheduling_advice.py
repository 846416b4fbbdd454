"""Suggested actions for a pod that does not start, from the message of the scheduler or the kubelet. Pure."""

import re

_PREEMPTION = re.compile(r"\s*preemption: .*", re.DOTALL)

_UNBOUND = r"unbound immediate PersistentVolumeClaims|find available persistent volumes to bind"
_BIND = (
    "check the unbound PersistentVolumeClaim: it needs a matching PersistentVolume or a StorageClass with a provisioner"
)

_RESOURCE = re.compile(r"Insufficient ([\w./-]*\w)")
_TAINT = re.compile(r"untolerated taint(?:\(s\))? ?\{([^}:]*)[^}]*\}")

_MISSING_SECRET = re.compile(r'secret "([^"]+)" not found')
_MISSING_KEY = re.compile(r"couldn't find key (\S+) in Secret \S*/(\S+)")
_OPTIONAL = "set optional in valueFrom.secretKeyRef of spec.workers.env"

# Present in most clusters; a training that fits no other node rarely belongs on these.
_CONTROL_PLANE_TAINTS = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_NODE_CONDITION_PREFIX = "node.kubernetes.io/"


def scheduling_advice(message: str, role: str) -> str:
    """What to do about a pod that the scheduler reports as unschedulable, one action for each cause.

    role: worker or launcher; selects the field of the spec that the advice names.
    """
    causes = _PREEMPTION.sub("", message)
    part = "spec.launcher" if role == "launcher" else "spec.workers"
    actions = [*_volumes(causes), *_resources(causes, part), *_placement(causes, part), *_taints(causes, part)]
    return "; ".join(actions) or "resolve the cause that the scheduler reports"


def container_advice(message: str) -> str:
    """What to do about a container that the kubelet cannot create; empty if it cannot pull the image.

    message: reason and message of the waiting container.
    """
    if not message.startswith("CreateContainer"):
        return ""
    if missing := _MISSING_SECRET.search(message):
        return f"create Secret {missing[1]}, or {_OPTIONAL}"
    if missing := _MISSING_KEY.search(message):
        return f"add key {missing[1]} to Secret {missing[2]}, or {_OPTIONAL}"
    return "correct the volume mount or subPath that the message names, or check the container runtime of the node"


def _volumes(causes: str) -> list[str]:
    found = []
    if re.search(_UNBOUND, causes):
        found.append(_BIND)
    if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', causes):
        found.append(f"create PersistentVolumeClaim {missing[1]}")
    if deleted := re.search(r'persistentvolumeclaim "([^"]+)" is being deleted', causes):
        found.append(f"recreate PersistentVolumeClaim {deleted[1]}, which is being deleted")
    if "volume node affinity conflict" in causes:
        found.append(
            "add nodes in the topology domain (such as the zone) of the volume, "
            "or use a volume in a domain that has nodes"
        )
    if "ReadWriteOncePod" in causes:
        found.append("delete the other pod that uses the ReadWriteOncePod claim, or use another claim")
    return found


def _resources(causes: str, part: str) -> list[str]:
    found = []
    if names := list(dict.fromkeys(_RESOURCE.findall(causes))):
        found.append(f"add nodes with free {' and '.join(names)}, or lower {part}.resources")
    if "Too many pods" in causes:
        found.append("add nodes, or delete pods: the nodes have reached their maximum number of pods")
    if "free ports" in causes:
        found.append(f"add nodes, or remove {part}.hostNetwork: it allows one worker per node")
    return found


def _placement(causes: str, part: str) -> list[str]:
    found = []
    if "node affinity/selector" in causes or "match node selector" in causes:
        found.append(f"check {part}.nodeSelector and {part}.affinity")
    if re.search(r"pod (anti-)?affinity rules", causes):
        found.append(f"check {part}.affinity")
    if "topology spread constraints" in causes:
        found.append("check spec.workers.topologySpreadConstraints")
    return found


def _taints(causes: str, part: str) -> list[str]:
    found = []
    taints = [each for each in dict.fromkeys(_TAINT.findall(causes)) if each not in _CONTROL_PLANE_TAINTS]
    if wanted := [each for each in taints if not each.startswith(_NODE_CONDITION_PREFIX)]:
        found.append(f"add a toleration for {' and '.join(wanted)} to {part}.tolerations, or remove the taint")
    if conditions := [each for each in taints if each.startswith(_NODE_CONDITION_PREFIX)]:
        found.append(f"repair the nodes with taint {' and '.join(conditions)}, or add nodes")
    if "were unschedulable" in causes:
        found.append("uncordon the cordoned nodes, or add nodes")
    return found
