"""The CRD's schema of the status, on the real API server."""

import pytest

from tests.support.kube import Cluster


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("rnx.status", ["Most recently observed status of the training", "attempts", "conditions", "operatorState"]),
        ("rnx.status.attempts", ["exitCode", "Exit code of the launcher, or of the worker that failed."]),
        ("rnx.status.progress.bestTop1", ["Best top-1 accuracy of all evaluations"]),
    ],
)
def test_explain_describes_status(cluster: Cluster, path: str, words: list[str]) -> None:
    """kubectl explain answers for the status as for the spec."""
    text = " ".join(cluster.run("kubectl", "explain", path).split())
    assert [word for word in words if word not in text] == []
