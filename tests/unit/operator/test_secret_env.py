"""Environment variables of workers with values from Secrets of the training's namespace."""

import pytest

from resnext_operator.api.validation import InvalidTraining, parse
from resnext_operator.rendering.hashing import pod_revision
from resnext_operator.rendering.pods import launcher_pod, worker_pod
from tests.support.fake_cluster import HOSTS, SITE, resource

PLAIN = {"name": "MODE", "value": "online"}
TOKEN = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tracker", "key": "token"}}}


def training(*env):
    return parse(resource(workers={"replicas": 2, "env": [*env]}), SITE)


def variables(pod):
    (container,) = pod["spec"]["containers"]
    return {each["name"]: each for each in container["env"]}


def test_worker_refers_to_secret():
    """Every worker does, the launcher does not; variables with a value are unchanged."""
    it = training(PLAIN, TOKEN)
    reference = {"secretKeyRef": {"name": "tracker", "key": "token", "optional": False}}
    for index in (0, 1):
        found = variables(worker_pod(it, index, 0))
        assert found["TOKEN"] == {"name": "TOKEN", "valueFrom": reference}
        assert found["MODE"] == PLAIN
    assert not {"TOKEN", "MODE"} & variables(launcher_pod(it, 1, HOSTS)).keys()


def test_optional_secret_lets_pod_start():
    """The kubelet then starts the container without the variable."""
    optional = {"secretKeyRef": {"name": "tracker", "key": "token", "optional": True}}
    found = variables(worker_pod(training({"name": "TOKEN", "valueFrom": optional}), 0, 0))
    assert found["TOKEN"]["valueFrom"] == optional


def test_secret_needs_no_service_account_token():
    """The kubelet reads the Secret, not the pod."""
    pod = worker_pod(training(TOKEN), 0, 0)
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod["spec"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            {"configMapKeyRef": {"name": "a", "key": "b"}},
            'unknown field "spec.workers.env[0].valueFrom.configMapKeyRef"',
        ),
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, 'unknown field "spec.workers.env[0].valueFrom.fieldRef"'),
        ({"secretKeyRef": {"name": "a", "key": "b", "namespace": "kube-system"}}, "valueFrom.secretKeyRef.namespace"),
    ],
)
def test_other_sources_are_rejected(source, words):
    """Other sources are rejected, including Secrets of other namespaces."""
    with pytest.raises(InvalidTraining) as refusal:
        training({"name": "TOKEN", "valueFrom": source})
    assert words in str(refusal.value)


def test_launcher_takes_no_value_from_secret():
    """It runs no user code that could need one."""
    with pytest.raises(InvalidTraining, match=r'unknown field "spec\.launcher\.env\[0\]\.valueFrom"'):
        parse(resource(launcher={"env": [TOKEN]}), SITE)


def test_value_and_source_are_exclusive():
    """value and valueFrom are mutually exclusive, as in pods; an empty value counts as unset."""
    with pytest.raises(InvalidTraining, match="value and valueFrom are mutually exclusive: remove one of them"):
        training({**TOKEN, "value": "x"})
    assert variables(worker_pod(training({**TOKEN, "value": ""}), 0, 0))["TOKEN"]["valueFrom"]


def test_new_field_keeps_pods_of_other_trainings():
    """The revision changes only if a variable does, so an upgrade of the operator replaces no pod."""
    # Computed by the version without valueFrom.
    assert pod_revision(training(PLAIN)) == "05e9409f27"
    assert pod_revision(training(PLAIN, TOKEN)) != pod_revision(training(PLAIN))
    other = {**TOKEN, "valueFrom": {"secretKeyRef": {"name": "tracker", "key": "other"}}}
    assert pod_revision(training(other)) != pod_revision(training(TOKEN))
