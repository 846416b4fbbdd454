"""Fixtures of the end-to-end tests: a cluster with the operator, Prometheus and the digits, installed by the chart.

Two files run in parallel (`pytest -n 2 --dist loadfile -m "not exclusive"`), each worker in its own namespace. Tests
that are marked `exclusive` run sequentially, without any other test (`pytest -m exclusive`).
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hack import monitoring
from tests.support.kube import (
    MONITORING,
    NAMESPACE,
    SAMPLES,
    WORKER,
    Cluster,
    image,
    install_operator,
    sample,
    setup,
)
from tests.support.simcluster.environment import Environment, simulated_environment

# Each test takes minutes; only `make test-faults` runs them.
collect_ignore = [] if os.environ.get("RESNEXT_FAULTS") == "all" else ["test_nodes.py", "test_stalled.py"]
# `make test` and `make test-soak` run it separately.
if "RESNEXT_SOAK_SECONDS" not in os.environ:
    collect_ignore.append("test_soak.py")


LONGEST = {"test_pod_failures.py", "test_training.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that both workers are busy until the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the durations in seconds that tests recorded with `record_property`."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    for report in reports:
        if getattr(report, "when", None) == "call":
            for what, seconds in report.user_properties:
                terminalreporter.write_line(f"{report.nodeid}: {what}: {seconds:.1f} s")


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest) -> None:
    """Fail exclusive tests that run in parallel with others."""
    if WORKER and request.node.get_closest_marker("exclusive"):
        pytest.fail('exclusive tests run without -n: pytest -m exclusive; with -n, add -m "not exclusive"')


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster with the operator, Prometheus, a restricted namespace and the digits in it."""
    cluster = Cluster(os.environ.get("KUBECONFIG") or setup("kubeconfig"))
    # The first worker installs. The directories of all workers have the same parent in one run.
    folder = tmp_path_factory.getbasetemp().parent if WORKER else tmp_path_factory.getbasetemp()
    installed = folder / "installed"
    with (folder / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            install(cluster)
            installed.touch()
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    dataset = (SAMPLES / "digits-dataset.yaml").read_text()
    cluster.kubectl(
        "apply", "-f", "-", stdin=dataset.replace("image: resnext-trainer", f"image: {image('trainer-cpu')}")
    )
    cluster.kubectl("wait", "--for=condition=Complete", "job/digits-dataset", "--timeout=180s")
    cluster.run("kubectl", "-n", MONITORING, "rollout", "status", "deployment/prometheus", "--timeout=90s")
    return cluster


def install(cluster: Cluster) -> None:
    """Install the operator and Prometheus, and delete what earlier runs left."""
    install_operator(cluster)
    cluster.run("kubectl", "apply", "-f", "-", stdin=monitoring.manifests(image("monitoring")))
    names = [each["metadata"]["name"] for each in cluster.objects("namespaces")]
    if left := [name for name in names if name == "e2e" or name.startswith("e2e-")]:
        cluster.run("kubectl", "delete", "namespace", *left, "--ignore-not-found", "--timeout=120s")
    setup("volumes")


@pytest.fixture
def training(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Create trainings from a sample, named after the test, and delete them and their claims afterwards."""
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
