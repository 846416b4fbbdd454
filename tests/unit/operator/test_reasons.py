"""Who reads a reason in `kubectl describe` finds in the documentation what to do about it."""

import re
from pathlib import Path

import pytest

from resnext_operator.policy import Reason
from resnext_operator.policy.reasons import REMEDIES, warning
from resnext_trainer.contract import Verdict

README = Path(__file__).parents[3] / "operator" / "README.md"


def test_every_reason_is_documented_with_what_to_do_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", README.read_text(), re.MULTILINE)
    assert sorted(row[0] for row in rows) == sorted(reason.value for reason in Reason)


REASONS = {
    Verdict.FINISHED: Reason.FINISHED,
    Verdict.CRASHED: Reason.CRASHED,
    Verdict.CONFIGURATION_REFUSED: Reason.CONFIGURATION_REFUSED,
    Verdict.DATA_REFUSED: Reason.DATA_REFUSED,
    Verdict.NOT_FINITE: Reason.NOT_FINITE,
    Verdict.WRONG_WORLD: Reason.WRONG_WORLD,
    Verdict.UNREACHABLE: Reason.UNREACHABLE,
    Verdict.NO_GPU: Reason.NO_GPU,
    Verdict.HUNG: Reason.HUNG,
    Verdict.NO_GOOD_CHECKPOINT: Reason.NO_GOOD_CHECKPOINT,
    Verdict.CHECKPOINT_NOT_SAVED: Reason.CHECKPOINT_NOT_SAVED,
    Verdict.CHECKPOINT_LOCKED: Reason.CHECKPOINT_LOCKED,
    Verdict.SYSTEM_ERROR: Reason.SYSTEM_ERROR,
    Verdict.STOPPED: Reason.STOPPED,
}


@pytest.mark.parametrize("verdict", Verdict, ids=lambda it: it.name.lower())
def test_every_verdict_has_its_reason(verdict):
    assert Reason.of_cause(verdict.name.lower()) is REASONS[verdict]


def test_what_a_warning_advises_is_what_the_documentation_says():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", README.read_text(), re.MULTILINE)
    advice = {reason: said.replace("`", "") for reason, _, said in rows}
    assert {reason.value: remedy for reason, remedy in REMEDIES.items()}.items() <= advice.items()


def test_a_long_warning_keeps_its_remedy():
    event = warning(Reason.CRASHED, "x" * 5000)
    assert len(event.message) <= 1024
    assert event.message.endswith(REMEDIES[Reason.CRASHED])


@pytest.mark.parametrize("reason", [Reason.PODS_REFUSED, Reason.SAVED])
def test_long_warning_keeps_the_advice_of_its_message(reason):
    event = warning(reason, "x" * 5000 + " → raise the quota")
    assert len(event.message) <= 1024
    assert event.message.endswith("x… → raise the quota")


def test_long_warning_without_advice_is_shortened():
    assert len(warning(Reason.SAVED, "x" * 5000).message) <= 1024
