"""Default values of spec.runPolicy from the operator's settings."""

import dataclasses

import pytest

from resnext_operator.api.validation import parse, read_leniently
from resnext_operator.runtime.settings import InvalidSettings, Settings
from tests.support.fake_cluster import SITE, resource

DEFAULTS = dataclasses.replace(SITE, run_policy={"backoffLimit": 2, "ttlSecondsAfterFinished": 60})


def test_unset_fields_get_operator_defaults():
    """Fields that the training sets, and fields without a default of the operator, stay."""
    policy = parse(resource(runPolicy={"backoffLimit": 9}), DEFAULTS).spec.run_policy
    assert (policy.backoff_limit, policy.ttl_seconds_after_finished, policy.stall_deadline_seconds) == (9, 60, 900)
    assert parse(resource(), DEFAULTS).spec.run_policy.backoff_limit == 2
    assert parse(resource(runPolicy={"backoffLimit": None}), DEFAULTS).spec.run_policy.backoff_limit == 2
    assert parse(resource(), SITE).spec.run_policy.ttl_seconds_after_finished is None


def test_invalid_training_gets_operator_defaults():
    """A training that this version rejects is deleted after the same time as the others."""
    training = read_leniently(resource(workers={"replicas": 0}), DEFAULTS, "invalid")
    assert training.spec.run_policy.ttl_seconds_after_finished == 60
    odd = read_leniently(resource(runPolicy="x"), DEFAULTS, "invalid")
    assert odd.spec.run_policy.backoff_limit == 6


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('{"backoffLimit": -1}', "RESNEXT_RUN_POLICY: backoffLimit: "),
        ('{"backofLimit": 1}', "RESNEXT_RUN_POLICY: backofLimit: "),
        ("backoffLimit=1", "RESNEXT_RUN_POLICY: Invalid JSON"),
    ],
)
def test_invalid_default_is_named(written, words):
    """The operator does not start with it; the chart's schema rejects it earlier."""
    with pytest.raises(InvalidSettings) as failure:
        Settings.from_environment({"RESNEXT_RUN_POLICY": written})
    assert words in str(failure.value)


def test_only_written_defaults_apply():
    """Defaults of this version must not hide those that a training resolves itself."""
    assert Settings.from_environment({"RESNEXT_RUN_POLICY": '{"avoidNodesAfter": 0}'}).site.run_policy == {
        "avoidNodesAfter": 0
    }
    assert Settings.from_environment({}).site.run_policy == {}
