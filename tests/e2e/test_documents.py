"""kubectl, the API server and the operator's YAML reader agree on the meaning of a manifest."""

import subprocess
from pathlib import Path

import pytest

from resnext_trainer.config import manifest_yaml, manifests
from tests.support.documents import CASES
from tests.support.kube import NAMESPACE, Cluster


@pytest.mark.parametrize(("data", "specs"), CASES.values(), ids=CASES)
def test_dry_run_matches_table(cluster: Cluster, tmp_path: Path, data, specs):
    """The unit tests compare `render` and `--config` with the same table."""
    path = tmp_path / "training.yaml"
    path.write_bytes(data)
    command = ["kubectl", "--namespace", NAMESPACE, "create", "--dry-run=server", "-o", "json", "-f", str(path)]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, check=False, timeout=60)
    assert (done.returncode == 0) == (specs is not None), done.stderr
    if specs is not None:
        stored = manifests.trainings(manifest_yaml.documents(done.stdout))
        assert [each["spec"] for each in stored] == specs
