"""The chart on the real cluster: schemas of the API server, the CRD's owner, `helm test`, and the life of a release."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest
import yaml

from hack.codegen.chart import RELEASE
from resnext_operator.api.groupversion import GROUP, KIND, PLURAL
from tests.support.chart import CHART, EVERYTHING, ROOT
from tests.support.kube import (
    NAMESPACE,
    ONE_WORKER,
    SMALL_NETWORK,
    SYSTEM,
    Cluster,
    Manifest,
    Refused,
    eventually,
    image_values,
    install_operator,
    operator_values,
    sample,
)

PREVIOUS = ROOT / "tests" / "fixtures" / "resnext-operator-0.1.0.tgz"
MONITORING_CRDS = ROOT / "tests" / "fixtures" / "monitoring-crds.yaml"
CRD = f"{PLURAL}.{GROUP}"
DRY_RUN = ("kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
"""Server-side apply rejects unknown fields."""
HELM = ("--namespace", SYSTEM, "--wait", "--timeout", "120s")
LIVE = {"model": SMALL_NETWORK, "epochs": 2000}
SYNTHETIC = {"dataset": None, "training": {"data": {"format": "synthetic", "syntheticImages": 64}}}


@pytest.fixture(scope="module")
def prometheus_operator(cluster: Cluster) -> Iterator[None]:
    """The kinds of the Prometheus Operator."""
    crds = [f"crd/{each['metadata']['name']}" for each in yaml.safe_load_all(MONITORING_CRDS.read_text())]
    try:
        cluster.run("kubectl", "apply", "--server-side", "-f", MONITORING_CRDS)
        cluster.run("kubectl", "wait", "--for=condition=Established", *crds, "--timeout=30s")
        yield
    finally:
        cluster.run("kubectl", "delete", "--ignore-not-found", "-f", MONITORING_CRDS)


@pytest.fixture
def account_of_test(cluster: Cluster) -> Iterator[None]:
    """The ServiceAccount of the pod of `helm test`: a dry run creates none, and pods without one are rejected."""
    account = ("serviceaccount", f"{RELEASE}-test", "--namespace", SYSTEM)
    cluster.run("kubectl", "create", *account)
    yield
    cluster.run("kubectl", "delete", *account)


@pytest.mark.usefixtures("prometheus_operator", "account_of_test")
@pytest.mark.parametrize("name", EVERYTHING)
def test_rendered_objects_are_valid_on_server(cluster: Cluster, name):
    """Two sets of values that together change every value of the chart, and the hooks of `helm test`."""
    values = {**EVERYTHING[name]}
    if "namespaces" in values:
        values["namespaces"] = [NAMESPACE]
    flags = ("--namespace", SYSTEM, "--set-json", json.dumps(values))
    rendered = cluster.run("helm", "template", RELEASE, CHART, *flags)
    accepted = cluster.run(*DRY_RUN, stdin=rendered).splitlines()
    assert len(accepted) == rendered.count("\nkind: ")


@pytest.mark.parametrize("components", [["ha"], ["monitoring"], ["namespaced"], ["ha", "monitoring", "namespaced"]])
@pytest.mark.usefixtures("prometheus_operator")
def test_components_are_valid_on_server(cluster: Cluster, components, tmp_path):
    """Each overlay, and all components together. The unit tests compare them with the chart."""
    manifests = shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    for file in (manifests / "components" / "namespaced").iterdir():
        file.write_text(re.sub(r"\btrainings\b", NAMESPACE, file.read_text()))
    overlay = manifests / "overlays" / components[-1] / "kustomization.yaml"
    kustomization = yaml.safe_load(overlay.read_text())
    assert kustomization["components"] == [f"../../components/{components[-1]}"]
    kustomization["components"] = [f"../../components/{name}" for name in components]
    overlay.write_text(yaml.safe_dump(kustomization))
    rendered = cluster.run("kubectl", "kustomize", overlay.parent)
    accepted = cluster.run(*DRY_RUN, stdin=rendered).splitlines()
    assert len(accepted) == rendered.count("\nkind: ")


def test_definition_of_others_needs_take_ownership(cluster: Cluster):
    """Otherwise helm refuses to import it; crd.install=false leaves it alone."""
    other = ("helm", "install", "another", str(CHART), "--namespace", NAMESPACE, "--dry-run=server", *image_values())
    with pytest.raises(Refused, match="cannot be imported into the current release"):
        cluster.run(*other)
    cluster.run(*other, "--take-ownership")
    cluster.run(*other, "--set=crd.install=false")


@pytest.fixture
def definition_alone(cluster: Cluster, tmp_path) -> Iterator[Path]:
    """A copy of the chart that contains only a CRD of another kind, so that the trainings in the cluster are kept."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    for template in (chart / "templates").glob("*.yaml"):
        if template.name != "crd.yaml":
            template.unlink()
    shutil.rmtree(chart / "templates" / "tests")
    for file in (chart / "templates" / "crd.yaml", chart / "files" / "crd" / "spec.yaml"):
        file.write_text(as_other_kind(file.read_text()))
    yield chart
    cluster.kubectl("delete", "crd", as_other_kind(CRD), "--ignore-not-found")


def as_other_kind(text: str) -> str:
    """The text with other names for the API group and the kind."""
    names = {GROUP: "other.example", "resnexttraining": "other", KIND: "Other", "- rnx": "- other"}
    return reduce(lambda text, name: text.replace(name, names[name]), names, text)


def test_uninstall_deletes_definition_if_not_kept(cluster: Cluster, definition_alone):
    """By default it stays with its trainings; with crd.keep=false, all trainings are deleted with it."""
    helm = ("--namespace", NAMESPACE, "--wait", "--timeout", "60s")
    crd = as_other_kind(CRD)
    cluster.run("helm", "install", "definition", definition_alone, *helm, *image_values())
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{crd}", "--timeout=30s")
    cluster.kubectl("create", "-f", "-", stdin=as_other_kind(yaml.safe_dump(sample("resnext-digits", "kept"))))
    cluster.run("helm", "uninstall", "definition", *helm)
    assert "kept" in cluster.kubectl("get", crd)

    cluster.run("helm", "install", "definition", definition_alone, *helm, *image_values())
    cluster.run("helm", "upgrade", "definition", definition_alone, *helm, "--reuse-values", "--set=crd.keep=false")
    cluster.run("helm", "uninstall", "definition", *helm)
    left = ("get", "crd", crd, "--ignore-not-found", "--output=name")
    eventually(lambda: not cluster.kubectl(*left), "the deletion of the definition")


def test_helm_test_trains_and_cleans_up(cluster: Cluster):
    """The training succeeds on a CPU; the claim and the other hooks are deleted."""
    log = cluster.run("helm", "test", RELEASE, "--namespace", SYSTEM, "--logs", "--timeout", "240s")
    assert "Succeeded" in log
    left = "rnx,pvc,serviceaccount,role,rolebinding,pod"
    named = f"{RELEASE}-test"

    def cleaned() -> bool:
        return named not in [each["metadata"]["name"] for each in cluster.objects(left, namespace=SYSTEM)]

    eventually(cleaned, "the deletion of the hooks")


@pytest.fixture
def release(cluster: Cluster) -> Iterator[None]:
    """Uninstalls the release before the test, and reinstalls the operator for the other tests afterwards."""
    try:
        cluster.run("helm", "uninstall", RELEASE, *HELM)
        yield
    finally:
        install_operator(cluster)


@pytest.mark.exclusive
@pytest.mark.usefixtures("release")
def test_training_survives_life_of_release(cluster: Cluster, training):
    """The training survives upgrade from the previous chart, rollback, uninstallation, and installation over a
    definition without owner."""
    # helm owns the definition of the uninstalled release, so this installation takes it over without a flag.
    cluster.run("helm", "install", RELEASE, PREVIOUS, *HELM, "--force-conflicts", *operator_values())
    assert not knows_value_from(cluster)
    name = training(training=LIVE, workers=ONE_WORKER)
    progresses(cluster, name)
    pods = pods_of(cluster, name)

    cluster.run("helm", "upgrade", RELEASE, CHART, *HELM, "--force-conflicts", "--reset-then-reuse-values")
    assert knows_value_from(cluster)
    progresses(cluster, name)
    assert pods_of(cluster, name) == pods

    cluster.run("helm", "rollback", RELEASE, "1", *HELM, "--force-conflicts")
    assert not knows_value_from(cluster)
    progresses(cluster, name)
    assert pods_of(cluster, name) == pods

    deleted = training(suffix="-deleted", suspend=True, **SYNTHETIC)
    cluster.until(deleted, lambda status: status.get("phase") == "Suspended")
    cluster.run("helm", "uninstall", RELEASE, *HELM)
    assert not cluster.objects("deployments", f"app.kubernetes.io/instance={RELEASE}", namespace=SYSTEM)
    cluster.kubectl("delete", "rnx", deleted, "--timeout=30s")
    time.sleep(5)  # longer than a pod would take to react to the missing operator
    assert pods_of(cluster, name) == pods
    assert {pod["status"]["phase"] for pod in cluster.objects("pods", f"resnext.dev/training={name}")} == {"Running"}
    before = cluster.status(name)["progress"]["step"]

    owner = ("meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-")
    cluster.run("kubectl", "annotate", "crd", CRD, *owner)
    cluster.run("kubectl", "label", "crd", CRD, "app.kubernetes.io/managed-by-")
    install = ("helm", "install", RELEASE, str(CHART), *HELM, "--force-conflicts", *operator_values())
    with pytest.raises(Refused, match="cannot be imported into the current release"):
        cluster.run(*install)
    cluster.run(*install, "--take-ownership")
    assert knows_value_from(cluster)
    cluster.until(name, lambda status: (status.get("progress") or {}).get("step", 0) > before)
    progresses(cluster, name)
    assert pods_of(cluster, name) == pods
    (attempt,) = cluster.status(name)["attempts"]
    assert "endTime" not in attempt


def progresses(cluster: Cluster, name: str) -> None:
    """Wait until the operator reports more steps than now."""
    step = (cluster.status(name).get("progress") or {}).get("step", 0)
    cluster.until(name, lambda status: (status.get("progress") or {}).get("step", 0) > step + 20)


def pods_of(cluster: Cluster, name: str) -> dict[str, str]:
    """uid of every pod of a training; restarted containers would change the value too."""
    return {
        pod["metadata"]["name"]: f"{pod['metadata']['uid']} {restarts(pod)}"
        for pod in cluster.objects("pods", f"resnext.dev/training={name}")
    }


def restarts(pod: Manifest) -> int:
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))


def knows_value_from(cluster: Cluster) -> bool:
    """Whether the installed definition is that of this version: the previous one has no workers.env[].valueFrom."""
    definition = cluster.get("crd", CRD)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return "valueFrom" in schema["properties"]["workers"]["properties"]["env"]["items"]["properties"]
