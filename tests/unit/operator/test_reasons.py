"""Who reads a reason in `kubectl describe` finds in the documentation what to do about it."""

import re
from pathlib import Path

import pytest

from resnext_operator.domain.attempt_cause import CAUSES, REASONS, AttemptCause
from resnext_operator.domain.reasons import SUGGESTED_ACTIONS, Reason, warning
from resnext_trainer.contract import ExitStatus

README = Path(__file__).parents[3] / "operator" / "README.md"


def test_every_reason_is_documented_with_what_to_do_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", README.read_text(), re.MULTILINE)
    assert sorted(row[0] for row in rows) == sorted(reason.value for reason in Reason)


def test_each_exit_status_has_a_cause_of_the_same_name():
    """The launcher's report and the status name an end alike."""
    assert {verdict.name: cause.name for verdict, cause in CAUSES.items()} == {
        each.name: each.name for each in ExitStatus
    }


def test_each_cause_has_a_reason_of_the_same_name():
    assert {cause.name: reason.name for cause, reason in REASONS.items()} == {
        each.name: each.name for each in AttemptCause
    }


def test_what_a_warning_advises_is_what_the_documentation_says():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", README.read_text(), re.MULTILINE)
    advice = {reason: said.replace("`", "") for reason, _, said in rows}
    assert {reason.value: remedy for reason, remedy in SUGGESTED_ACTIONS.items()}.items() <= advice.items()


def test_a_long_warning_keeps_its_remedy():
    event = warning(Reason.CRASHED, "x" * 5000)
    assert len(event.message) <= 1024
    assert event.message.endswith(SUGGESTED_ACTIONS[Reason.CRASHED])


@pytest.mark.parametrize("reason", [Reason.PODS_REFUSED, Reason.SAVED])
def test_long_warning_keeps_the_advice_of_its_message(reason):
    event = warning(reason, "x" * 5000 + " → raise the quota")
    assert len(event.message) <= 1024
    assert event.message.endswith("x… → raise the quota")


def test_long_warning_without_advice_is_shortened():
    assert len(warning(Reason.SAVED, "x" * 5000).message) <= 1024
