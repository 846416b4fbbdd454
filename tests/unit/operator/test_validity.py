"""Specs of invalid pods are rejected before a pod is created; unusual but valid ones are accepted."""

import re

import pytest
import yaml

from resnext_operator.api.validation import InvalidTraining, parse
from resnext_operator.cli import main
from resnext_operator.rendering.pods import example_hosts, launcher_pod, worker_pod
from tests.support.fake_cluster import SITE, resource
from tests.support.validity import INVALID, VALID, merged

OVERLAPPING = ("/etc", "/etc/resnext", "/home", "/run", "/dev", "/checkpoints/old", "/data/a/b", "/dev/shm/x", "/tmp/x")


def body(spec):
    return resource(**merged(resource()["spec"], spec))


@pytest.mark.parametrize("name", INVALID)
def test_spec_of_invalid_pod_is_rejected(name):
    """The operator's message begins with the field."""
    with pytest.raises(InvalidTraining) as refusal:
        parse(body(INVALID[name]), SITE)
    assert re.match(r"spec\.[a-zA-Z.\[\]0-9]+: ", str(refusal.value))


@pytest.mark.parametrize("name", VALID)
def test_spec_of_unusual_valid_pod_is_accepted(name):
    """The pods are rendered; the end-to-end tests check them on a real API server."""
    training = parse(body(VALID[name]), SITE)
    launcher = launcher_pod(training, 1, example_hosts(training))
    assert worker_pod(training, 0, 0)["kind"] == launcher["kind"] == "Pod"


@pytest.mark.parametrize(
    "name", ["GPU in requests only", "subPath leads out", "claim of size 0", "label of 64 characters"]
)
def test_render_rejects_invalid_spec(name, tmp_path, capsys):
    """`render` rejects the spec without a cluster and exits with status 2."""
    file = tmp_path / "it.yaml"
    file.write_text(yaml.safe_dump(body(INVALID[name])))
    assert main(["render", "--filename", str(file)]) == 2
    assert "spec." in capsys.readouterr().err


@pytest.mark.parametrize("path", OVERLAPPING)
def test_mount_overlapping_own_directory_is_rejected(path):
    """A mount path that equals, is below or contains one of the operator's directories is rejected."""
    volumes = [{"name": "x", "emptyDir": {}}]
    spec = {"workers": {"volumes": volumes, "volumeMounts": [{"name": "x", "mountPath": path}]}}
    with pytest.raises(InvalidTraining, match="use another path"):
        parse(body(spec), SITE)


LAUNCHERS = [
    ({}, {"cpu": ("50m", "1"), "memory": ("128Mi", "512Mi")}),
    ({"limits": {"cpu": "20m"}}, {"cpu": (None, "20m"), "memory": ("128Mi", "512Mi")}),
    ({"requests": {"cpu": 3}}, {"cpu": (3, 3), "memory": ("128Mi", "512Mi")}),
    ({"requests": {"memory": "64Mi"}}, {"cpu": ("50m", "1"), "memory": ("64Mi", "512Mi")}),
    ({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}, {"cpu": ("50m", "1"), "memory": ("1Gi", "1Gi")}),
]


@pytest.mark.parametrize(("written", "expected"), LAUNCHERS)
def test_launcher_has_cpu_and_memory_limits(written, expected):
    """A quota may require them; the user's values stay, and no request exceeds its limit."""
    training = parse(body({"launcher": {"resources": written}}), SITE)
    found = launcher_pod(training, 1, example_hosts(training))["spec"]["containers"][0]["resources"]
    for name, (request, limit) in expected.items():
        assert found["requests"].get(name) == request
        assert found["limits"][name] == limit
