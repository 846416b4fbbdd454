"""Specs of invalid pods or claims, by class, and unusual specs of valid ones, for unit and end-to-end tests.

The classes are those of Kubernetes' validation of pods (pkg/apis/core/validation) that apply to fields of a training.
"""

from typing import Any

Spec = dict[str, Any]

REQUIRED, PREFERRED = (f"{how}DuringSchedulingIgnoredDuringExecution" for how in ("required", "preferred"))
LONG = "a" * 64
DISK = [{"name": "disk", "emptyDir": {}}]


def merged(under: Spec, over: Spec) -> Spec:
    """A spec merged with another one; resources are replaced as a whole."""
    result = dict(under)
    for key, value in over.items():
        inner = (
            isinstance(value, dict) and isinstance(result.get(key), dict) and key not in ("resources", "checkpoints")
        )
        result[key] = merged(result[key], value) if inner else value
    return result


def _resources(limits: Spec, requests: Spec) -> Spec:
    return {"workers": {"resources": {"limits": limits, "requests": requests}}}


def _toleration(**fields: Any) -> Spec:
    return {"workers": {"tolerations": [fields]}}


def _mounts(*mounts: Spec) -> Spec:
    return {"workers": {"volumes": DISK, "volumeMounts": [{"name": "disk", **mount} for mount in mounts]}}


def _node(**term: Any) -> Spec:
    return {"workers": {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}}}


def _pods(**term: Any) -> Spec:
    return {"workers": {"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": "zone", **term}]}}}}


def _spread(*constraints: Spec) -> Spec:
    base = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    return {"workers": {"topologySpreadConstraints": [{**base, **each} for each in constraints]}}


def _source(**source: Any) -> Spec:
    return {"workers": {"volumes": [{"name": "x", **source}]}}


def _secret(**fields: Any) -> Spec:
    return {"secretKeyRef": {"name": "tracker", "key": "token", **fields}}


def _variable(**fields: Any) -> Spec:
    return {"workers": {"env": [{"name": "TOKEN", **fields}]}}


INVALID: dict[str, Spec] = {
    # resources
    "cpu request above limit": _resources({"cpu": "500m"}, {"cpu": 1}),
    "memory request above limit": _resources({"memory": "1G"}, {"memory": "1Gi"}),
    "GPU in requests only": _resources({}, {"nvidia.com/gpu": 1}),
    "GPU request below limit": _resources({"nvidia.com/gpu": 2}, {"nvidia.com/gpu": 1}),
    "device in requests only": _resources({}, {"rdma/hca": 1}),
    "part of a device": _resources({"rdma/hca": "500m"}, {}),
    "resource without domain": _resources({"gpu": 1}, {}),
    "resource with two slashes": _resources({"a/b/c": 1}, {}),
    "resource of a quota": _resources({"requests.nvidia.com/gpu": 1}, {}),
    "launcher's request above limit": {
        "launcher": {"resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "65Mi"}}}
    },
    "quantity with a unit of its own": _resources({"memory": "4GB"}, {}),
    "quantity without number": _resources({"memory": "Gi"}, {}),
    # sizes
    "claim of size 0": {"checkpoints": {"template": {"size": 0}}},
    "claim of size 0Gi": {"checkpoints": {"template": {"size": "0Gi"}}},
    "no shared memory": {"workers": {"sharedMemory": "0"}},
    # paths
    "subPath leads out": {"dataset": {"claimName": "x", "subPath": "../other"}},
    "subPath leads out in the middle": {"dataset": {"claimName": "x", "subPath": "a/../../b"}},
    "absolute subPath": {"dataset": {"claimName": "x", "subPath": "/a"}},
    "checkpoints' subPath leads out": {"checkpoints": {"claimName": "x", "subPath": ".."}},
    "absolute checkpoints' subPath": {"checkpoints": {"claimName": "x", "subPath": "/runs"}},
    "mount's subPath leads out": _mounts({"mountPath": "/scratch", "subPath": "a/.."}),
    "mount's subPath absolute": _mounts({"mountPath": "/scratch", "subPath": "/a"}),
    "two mounts on one path": _mounts({"mountPath": "/scratch"}, {"mountPath": "/scratch", "subPath": "b"}),
    "mount on a path of the pods": _mounts({"mountPath": "/tmp"}),
    "mount over a path of the pods": _mounts({"mountPath": "/etc"}),
    "mount in a path of the pods": _mounts({"mountPath": "/data/more"}),
    "mount's path with dots": _mounts({"mountPath": "/scratch/../tmp"}),
    "mount's path with a colon": _mounts({"mountPath": "/scratch:ro"}),
    "hostPath leads out": _source(hostPath={"path": "/mnt/nvme/../../etc"}),
    # variables from Secrets
    "variable with two sources": _variable(value="x", valueFrom=_secret()),
    "variable from nothing": _variable(valueFrom={}),
    "variable's Secret": _variable(valueFrom=_secret(name="Tracker_Token")),
    "variable's key": _variable(valueFrom=_secret(key="a/b")),
    "variable's key that leads out": _variable(valueFrom=_secret(key="..token")),
    # labels, annotations, selectors
    "label of 64 characters": {"workers": {"labels": {"team": LONG}}},
    "label with a space": {"launcher": {"labels": {"team": "a b"}}},
    "label that ends with a dash": {"workers": {"labels": {"team": "vision-"}}},
    "label's key of 64 characters": {"workers": {"labels": {LONG: "x"}}},
    "label's key with two slashes": {"workers": {"labels": {"a/b/c": "x"}}},
    "label's key in capitals before the slash": {"workers": {"labels": {"Team.Example/x": "x"}}},
    "label's key with an empty name": {"workers": {"labels": {"team.example/": "x"}}},
    "annotation's key with a space": {"workers": {"annotations": {"a b": "x"}}},
    "annotation of a mirror pod": {"workers": {"annotations": {"kubernetes.io/config.mirror": "x"}}},
    "annotation of AppArmor": {
        "launcher": {"annotations": {"container.apparmor.security.beta.kubernetes.io/worker": "runtime/default"}}
    },
    "annotation of a cost": {"workers": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "high"}}},
    "annotation of tolerations": {"workers": {"annotations": {"scheduler.alpha.kubernetes.io/tolerations": "{"}}},
    "nodeSelector's key": {"workers": {"nodeSelector": {"gpu type": "a100"}}},
    "nodeSelector's value": {"workers": {"nodeSelector": {"gpu": "NVIDIA A100"}}},
    # tolerations
    "toleration without key": _toleration(operator="Equal", value="x"),
    "toleration of nothing": _toleration(effect="NoSchedule"),
    "toleration with a value for Exists": _toleration(key="a", operator="Exists", value="x"),
    "toleration's key": _toleration(key="a b", operator="Exists"),
    "toleration's value": _toleration(key="a", value="x y"),
    "tolerationSeconds without effect": _toleration(key="a", operator="Exists", tolerationSeconds=30),
    "tolerationSeconds without NoExecute": _toleration(
        key="a", operator="Exists", effect="NoSchedule", tolerationSeconds=30
    ),
    # affinity and spread
    "node term's key": _node(matchExpressions=[{"key": "a b", "operator": "Exists"}]),
    "node term's value": _node(matchExpressions=[{"key": "a", "operator": "In", "values": ["x y"]}]),
    "node term with an operator for numbers": _node(matchExpressions=[{"key": "a", "operator": "Gt", "values": ["x"]}]),
    "node term without values": _node(matchExpressions=[{"key": "a", "operator": "In"}]),
    "field of nodes": _node(matchFields=[{"key": "spec.unschedulable", "operator": "In", "values": ["x"]}]),
    "field of two nodes": _node(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["x", "y"]}]),
    "field of nodes that exists": _node(matchFields=[{"key": "metadata.name", "operator": "Exists"}]),
    "pod term's topologyKey": _pods(topologyKey="a b"),
    "pod term's label": _pods(labelSelector={"matchLabels": {"team": "a b"}}),
    "pod term's label's key": _pods(labelSelector={"matchLabels": {"a b": "x"}}),
    "pod term's requirement": _pods(labelSelector={"matchExpressions": [{"key": "a b", "operator": "Exists"}]}),
    "pod term's value": _pods(labelSelector={"matchExpressions": [{"key": "a", "operator": "In", "values": [LONG]}]}),
    "spread's topologyKey": _spread({"topologyKey": "a b"}),
    "spread twice": _spread({"maxSkew": 1}, {"maxSkew": 2}),
    "spread's minDomains": _spread({"minDomains": 2}),
    # names
    "dataset's claim": {"dataset": {"claimName": "Digits_Data"}},
    "checkpoints' claim": {"checkpoints": {"claimName": "a b"}},
    "storage class": {"checkpoints": {"template": {"storageClassName": "Fast_Disk"}}},
    "priority class": {"workers": {"priorityClassName": "High Priority"}},
    "runtime class": {"workers": {"runtimeClassName": "Nvidia"}},
    "pull secret": {"imagePullSecrets": [{"name": "my secret"}]},
    "volume's name": {"workers": {"volumes": [{"name": "My_Disk", "emptyDir": {}}]}},
    "volume's claim": _source(persistentVolumeClaim={"claimName": "A"}),
    "volume's ConfigMap": _source(configMap={"name": "a_b"}),
    "volume's Secret": _source(secret={"secretName": "a/b"}),
    "CSI driver": _source(csi={"driver": "a_b"}),
    "CSI driver of 64 characters": _source(csi={"driver": LONG}),
    "image with a space": {"image": "registry.example/trainer:1 "},
    "image with a space in it": {"image": "registry.example/my trainer:1"},
    "variable's name": {"workers": {"env": [{"name": "MY-VARIABLE=1"}]}},
}
"""Specs whose pods or claim the API server or the kubelet rejects."""

VALID: dict[str, Spec] = {
    "equal request and limit in other units": _resources(
        {"cpu": "1", "memory": "1Gi"}, {"cpu": "1000m", "memory": "1024Mi"}
    ),
    "GPU in both": _resources({"nvidia.com/gpu": 2}, {"nvidia.com/gpu": "2"}),
    "device of another maker": _resources({"rdma/hca_shared": 1, "ephemeral-storage": "1e9"}, {}),
    "fractions and exponents": _resources({"cpu": "1.5", "memory": "2e9"}, {"cpu": ".5", "memory": "5.e8"}),
    "launcher with a limit alone": {"launcher": {"resources": {"limits": {"cpu": "20m"}}}},
    "launcher with a request above the default": {"launcher": {"resources": {"requests": {"cpu": 3, "memory": "1Gi"}}}},
    "variable from a Secret": _variable(value="", valueFrom=_secret(key=".dockerconfig.json_1", optional=True)),
    "label of 63 characters": {"workers": {"labels": {"a" * 63: "b" * 63, "team.example/x_y.z": "", "A": "B"}}},
    "annotations": {"workers": {"annotations": {"team.example/note": "any text: ü\n", "Prometheus.io/Scrape": "x"}}},
    "paths with dots": _mounts({"mountPath": "/scratch/..a/b..c/...", "subPath": "..a/./b/"}),
    "two mounts, one in the other": _mounts({"mountPath": "/scratch"}, {"mountPath": "/scratch/b", "subPath": "b"}),
    "mounts that only begin as ours": _mounts({"mountPath": "/data2"}, {"mountPath": "/tmp-large"}),
    "toleration of everything": _toleration(operator="Exists"),
    "toleration for a time": _toleration(key="a.example/b", effect="NoExecute", value="x", tolerationSeconds=30),
    "affinity": {
        "workers": {
            "affinity": {
                "nodeAffinity": {
                    REQUIRED: {
                        "nodeSelectorTerms": [
                            {
                                "matchFields": [
                                    {"key": "metadata.name", "operator": "NotIn", "values": ["node.example"]}
                                ]
                            },
                            {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["31"]}]},
                        ]
                    },
                    PREFERRED: [
                        {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}}
                    ],
                },
                "podAffinity": {PREFERRED: [{"weight": 100, "podAffinityTerm": {"topologyKey": "zone"}}]},
            }
        }
    },
    "spread": _spread({"minDomains": 2, "whenUnsatisfiable": "DoNotSchedule"}, {"topologyKey": "zone"}),
    "names with dots": {
        "image": "registry.example:5000/team/Trainer@sha256:" + "0" * 64,
        "imagePullSecrets": [{"name": "a.b-c"}],
        "workers": {
            "volumes": [{"name": "x", "csi": {"driver": "Disk.CSI.example", "volumeAttributes": {"any key": "any"}}}],
        },
    },
    "variables": {"workers": {"env": [{"name": "A"}, {"name": "_b1", "value": "$(A) ü"}, {"name": "A", "value": "2"}]}},
    "claim": {"checkpoints": {"template": {"size": "500m", "storageClassName": "fast.example"}}},
}
"""Specs whose pods and claim the API server accepts."""
