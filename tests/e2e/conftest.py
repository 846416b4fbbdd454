"""The real cluster for the end-to-end tests: operator, Prometheus and the digits, installed once as a user would."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.kube import MONITORING, NAMESPACE, ROOT, SAMPLES, SYSTEM, Cluster, image, sample, setup
from tests.support.simcluster.environment import Environment, simulated_environment

# Set by `make test-faults`: tests that take minutes each.
collect_ignore = [] if os.environ.get("RESNEXT_FAULTS") == "all" else ["test_nodes.py", "test_stalled.py"]
# `make test` and `make test-soak` run it separately.
if "RESNEXT_SOAK_SECONDS" not in os.environ:
    collect_ignore.append("test_soak.py")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster with the operator, Prometheus, a restricted namespace and the digits in it."""
    cluster = Cluster(os.environ.get("KUBECONFIG") or setup("kubeconfig"))
    cluster.run(
        *("helm", "upgrade", "--install", "resnext-operator", ROOT / "charts" / "resnext-operator"),
        *("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "120s"),
        *("--set", f"image={image('operator')}", "--set", f"trainerImage={image('trainer-cpu')}"),
    )
    prometheus = (ROOT / "images" / "monitoring" / "prometheus.yaml").read_text()
    prometheus = prometheus.replace("image: resnext-monitoring", f"image: {image('monitoring')}")
    cluster.run("kubectl", "apply", "-f", "-", stdin=prometheus)
    cluster.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    setup("volumes")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    dataset = (SAMPLES / "digits-dataset.yaml").read_text()
    cluster.kubectl(
        "apply", "-f", "-", stdin=dataset.replace("image: resnext-trainer", f"image: {image('trainer-cpu')}")
    )
    cluster.kubectl("wait", "--for=condition=Complete", "job/digits-dataset", "--timeout=180s")
    cluster.run("kubectl", "-n", MONITORING, "rollout", "status", "deployment/prometheus", "--timeout=90s")
    return cluster


@pytest.fixture
def training(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Creates trainings from a sample, named after the test; they and their claims are deleted afterwards."""
    test = request.node.originalname.removeprefix("test_").replace("_", "-")[:30].strip("-")
    names: list[str] = []

    def create(stem: str = "resnext-digits", suffix: str = "", **spec: Any) -> str:
        names.append(test + suffix)
        cluster.apply(sample(stem, names[-1], spec))
        return names[-1]

    yield create
    claims = [f"{name}-checkpoints" for name in names]
    cluster.kubectl("delete", "rnx", *names, "--ignore-not-found", "--cascade=foreground", "--timeout=90s")
    cluster.kubectl("delete", "pvc", *claims, "--ignore-not-found", "--timeout=60s")


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """Simulated nodes and pods, and only the tests' own operators, for one module."""
    with simulated_environment() as it:
        yield it
