"""Manifests for installation without Helm: the chart's objects, as install.yaml and as files for kustomize."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hack.codegen import NOTICE, chart

IMAGES = {"image": "resnext-operator", "trainerImage": "resnext-trainer"}
"""Names of the images in the kustomize base, which its user replaces."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Parses the CRD in 0.05 s instead of 0.6 s if PyYAML is built with libyaml."""

_HELM_LABEL = re.compile(r"^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)
_SOURCE = re.compile(r"^# Source: .*\n", re.MULTILINE)

Manifest = dict[str, Any]


def install(folder: Path, image: str, trainer_image: str) -> str:
    """install.yaml: the objects of the chart in `folder` with default values, and their namespace."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": chart.NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    objects = _without_helm(folder, ["--set", f"image={image}", "--set", f"trainerImage={trainer_image}"])
    return f"{NOTICE}---\n{yaml.safe_dump(namespace, sort_keys=False)}{objects}"


def added_objects(folder: Path, values: Path) -> str:
    """The objects that the chart in `folder` renders with a file of values, but not with its default values."""
    images = [word for name, image in IMAGES.items() for word in ("--set", f"{name}={image}")]
    default = {_identity(each) for each in _documents(_without_helm(folder, images))}
    with_values = _without_helm(folder, [*images, "--values", str(values)])
    texts = [text for text in with_values.split("---\n") if text.strip()]
    return NOTICE + "".join(
        f"---\n{text}" for text in texts if (found := yaml.load(text, LOADER)) and _identity(found) not in default
    )


def _without_helm(folder: Path, arguments: list[str]) -> str:
    """The rendered objects without what only Helm uses: labels, the resource policy and comments on templates."""
    text = chart.rendered(folder, [*arguments, "--set", "crd.keep=false"])
    return _SOURCE.sub("", _HELM_LABEL.sub("", text))


def _documents(text: str) -> Iterator[Manifest]:
    return (each for each in yaml.load_all(text, LOADER) if each)


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]
