"""install.yaml and the kustomizations produce the same objects as the chart."""

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import install_yaml
from tests.support.chart import ROOT, is_hook, objects, of_kind, pod, render, with_values

MANIFESTS = ROOT / "manifests"
INSTALLING = (ROOT / "docs" / "installing.md").read_text()
NAMES = sorted(path.parent.name for path in MANIFESTS.glob("components/*/values.yaml"))
Objects = dict[tuple[str, str, str], dict[str, Any]]


def kustomize(folder: Path) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(folder)]
    return objects(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def comparable(manifests: list[dict[str, Any]]) -> Objects:
    """The objects by identity, without hooks, the namespace, and what only Helm uses; variables by name."""
    found: Objects = {}
    for each in map(copy.deepcopy, manifests):
        metadata = each["metadata"]
        if each["kind"] == "Namespace" or is_hook(each):
            continue
        labels = {**metadata["labels"]}
        if each["kind"] == "Deployment":
            variables = each["spec"]["template"]["spec"]["containers"][0]["env"]
            variables.sort(key=lambda variable: variable["name"])
            labels = each["spec"]["template"]["metadata"]["labels"]
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            metadata["labels"].pop(label, None)
            labels.pop(label, None)
        metadata.get("annotations", {}).pop("helm.sh/resource-policy", None)
        if not metadata.get("annotations", True):
            del metadata["annotations"]
        found[each["kind"], metadata.get("namespace", ""), metadata["name"]] = each
    return found


def test_base_gives_objects_of_chart():
    """The base renders the objects of the chart with its default values."""
    assert comparable(kustomize(MANIFESTS / "base")) == comparable(render())


@pytest.mark.parametrize("name", NAMES)
def test_overlay_gives_objects_of_chart(name):
    """The overlay renders the objects of the chart with the component's values.yaml."""
    values = yaml.safe_load((MANIFESTS / "components" / name / "values.yaml").read_text())
    with_overlay = comparable(kustomize(MANIFESTS / "overlays" / name))
    assert with_overlay == comparable(with_values(**values))
    assert with_overlay != comparable(render()), "the values have an effect"


@pytest.mark.parametrize("names", [("ha", "monitoring"), ("ha", "monitoring", "namespaced")])
def test_components_can_be_combined(tmp_path, names):
    """A user's kustomization can combine components and set the images of a registry."""
    root = os.path.relpath(MANIFESTS, tmp_path)
    variable = {"name": "RESNEXT_TRAINER_IMAGE", "value": "registry.example/trainer:2"}
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "resnext-operator", "namespace": "resnext-system"},
        "spec": {"template": {"spec": {"containers": [{"name": "operator", "env": [variable]}]}}},
    }
    kustomization = {
        "resources": [f"{root}/base"],
        "components": [f"{root}/components/{name}" for name in names],
        "images": [{"name": "resnext-operator", "newName": "registry.example/operator", "newTag": "1"}],
        "patches": [{"patch": yaml.safe_dump(patch)}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    values = {"image": "registry.example/operator:1", "trainerImage": "registry.example/trainer:2"}
    for name in names:
        values |= yaml.safe_load((MANIFESTS / "components" / name / "values.yaml").read_text())
    assert comparable(kustomize(tmp_path)) == comparable(with_values(**values))


@pytest.mark.parametrize("names", [["namespaced"], ["monitoring", "namespaced"]])
def test_watched_namespace_can_be_replaced(tmp_path, names):
    """The documented command replaces it everywhere, and nothing else."""
    manifests = shutil.copytree(MANIFESTS, tmp_path / "manifests")
    (command,) = re.findall(r"^sed -i .*components/namespaced/.*", INSTALLING, re.MULTILINE)
    subprocess.run(command.replace("NAMESPACE", "vision"), shell=True, check=True, cwd=tmp_path)
    kustomization = {
        "resources": ["manifests/base"],
        "components": [f"manifests/components/{name}" for name in names],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    values: dict[str, Any] = {}
    for name in names:
        values |= yaml.safe_load((manifests / "components" / name / "values.yaml").read_text())
    assert values["namespaces"] == ["vision"]
    assert comparable(kustomize(tmp_path)) == comparable(with_values(**values))


def test_install_yaml_has_given_images(tmp_path, monkeypatch, capsys):
    """`make install-yaml` writes the objects of the chart and the namespace, without hooks."""
    file = tmp_path / "it.yaml"
    monkeypatch.setattr(install_yaml, "FILE", file)
    monkeypatch.setattr(install_yaml, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["install_yaml", "--image", "op:1", "--trainer-image", "tr:2"])
    install_yaml.main()
    written = objects(file.read_text())
    assert comparable(written) == comparable(with_values(image="op:1", trainerImage="tr:2"))
    (namespace,) = of_kind(written, "Namespace")
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert not any(is_hook(each) for each in written)
    assert "app.kubernetes.io/managed-by" not in pod(written)["metadata"]["labels"]
    assert "kubectl apply --server-side -f it.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--image", "op:1"], ["--image", "op:1", "--trainer-image", ""]])
def test_install_yaml_without_image_fails(arguments, monkeypatch, capsys):
    """The message says what is missing."""
    monkeypatch.setattr("sys.argv", ["install_yaml", *arguments])
    with pytest.raises(SystemExit):
        install_yaml.main()
    assert "image" in capsys.readouterr().err
