"""The Helm chart and the kustomizations, rendered without a cluster."""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from hack.codegen.chart import NAMESPACE, RELEASE
from hack.codegen.chart import helm as helm_binary
from hack.codegen.manifests import IMAGES, LOADER

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / RELEASE
Manifest = dict[str, Any]


_EVERYWHERE: Manifest = {
    "image": "registry.example/resnext-operator:1@sha256:" + "0123456789abcdef" * 4,
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "trainerImage": "registry.example:5000/ml/resnext-trainer:1",
    "runPolicy": {"backoffLimit": 3, "ttlSecondsAfterFinished": 604_800, "cleanPodPolicy": "All"},
    "replicas": 3,
    "podDisruptionBudget": {"maxUnavailable": "50%"},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "admissionPolicy": {"enabled": True, "scalers": ["system:serviceaccount:kube-system:horizontal-pod-autoscaler"]},
    "allow": {"hostPaths": ["/mnt/a", "/mnt/b"], "hostNetwork": True},
    "networkPolicy": {
        "enabled": True,
        "metricsAllowedFrom": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
        "apiServerPorts": [8443],
    },
    "crd": {"keep": False},
    "settings": {"resyncSeconds": 30, "maxConcurrentReconciles": 80},
    "env": [
        {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b", "optional": True}}},
    ],
    "resources": {"requests": {"cpu": 1}, "limits": {"memory": "1.5Gi", "ephemeral-storage": "100M"}},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "system", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
            }
        }
    },
    "priorityClassName": "system-cluster-critical",
    "commonLabels": {"team": "ml"},
    "commonAnnotations": {"team.example/contact": "ml@team.example"},
    "podAnnotations": {"team.example/note": "a b"},
    "podLabels": {"tier": "control"},
    "serviceAccount": {"annotations": {"team.example/role": "reader"}},
    "scrapeAnnotations": {"enabled": True},
    "podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
    "prometheusRule": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbookUrl": "https://wiki.example/runbook",
    },
    "dashboard": {"labels": {"dashboards": "yes"}, "folder": "ML", "folderAnnotation": "folder"},
    "test": {"storageClassName": "standard"},
}
EVERYTHING: dict[str, Manifest] = {
    "everywhere": _EVERYWHERE,
    "namespaced": {
        **{name: _EVERYWHERE[name] for name in ("image", "trainerImage", "admissionPolicy", "podMonitor")},
        "namespaces": ["trainings"],
        "crd": {"install": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": False},
    },
}
"""Sets of values that together change every value of the chart."""


class Rejected(Exception):
    """helm failed; the message is its error output."""


def helm(*arguments: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run([helm_binary(), *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Rejected(done.stderr)
    return done.stdout


@functools.cache
def template(*arguments: str, chart: Path = CHART) -> str:
    """Output of `helm template` without default images."""
    return helm("template", RELEASE, chart, "--namespace", NAMESPACE, *arguments)


def render(*arguments: str, chart: Path = CHART) -> list[Manifest]:
    """The objects of the chart with the image names of the kustomize base, unless the arguments set others."""
    images = [word for name, image in IMAGES.items() for word in ("--set", f"{name}={image}")]
    return objects(template(*images, *arguments, chart=chart))


def with_values(**values: Any) -> list[Manifest]:
    """The objects of the chart with these values, such as `replicas=2`, and by default the images of `render`."""
    return objects(template("--set-json", json.dumps({**IMAGES, **values})))


def objects(text: str) -> list[Manifest]:
    """The documents of YAML that are not empty."""
    return [manifest for manifest in yaml.load_all(text, LOADER) if manifest]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The objects of a kind, without test hooks."""
    return [each for each in manifests if each["kind"] == kind and not is_hook(each)]


def is_hook(manifest: Manifest) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def the(manifests: list[Manifest], kind: str, name: str = RELEASE) -> Manifest:
    """The only object of this kind and name."""
    (found,) = (each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name)
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    """Metadata and spec of the operator's pods."""
    template: Manifest = the(manifests, "Deployment")["spec"]["template"]
    return template


def environment(manifests: list[Manifest]) -> dict[str, Any]:
    """The operator's environment variables; those without a value are None."""
    return {each["name"]: each.get("value") for each in pod(manifests)["spec"]["containers"][0]["env"]}
