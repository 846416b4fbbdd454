"""Reasons of events and conditions: documented, and the same name for status, cause and reason."""

import inspect

import pytest

from hack.codegen.reference.reasons import docstrings
from resnext_operator.domain import reasons
from resnext_operator.domain.attempt_cause import CAUSES, REASONS, AttemptCause
from resnext_operator.domain.reasons import SUGGESTED_ACTIONS, Reason, warning
from resnext_trainer.contract import ExitStatus


def test_every_reason_has_description():
    """The string below each member is its documentation."""
    assert docstrings(inspect.getsource(reasons), "Reason").keys() == Reason.__members__.keys()


def test_every_exit_status_has_cause_of_same_name():
    """The launcher's report and the status use the same name."""
    assert {status.name: cause.name for status, cause in CAUSES.items()} == {
        each.name: each.name for each in ExitStatus
    }


def test_every_cause_has_reason_of_same_name():
    """The attempt and the condition use the same name."""
    assert {cause.name: reason.name for cause, reason in REASONS.items()} == {
        each.name: each.name for each in AttemptCause
    }


def test_long_warning_keeps_suggested_action():
    """The message is shortened, not the advice."""
    event = warning(Reason.CRASHED, "x" * 5000)
    assert len(event.message) <= 1024
    assert event.message.endswith(SUGGESTED_ACTIONS[Reason.CRASHED])


@pytest.mark.parametrize("reason", [Reason.POD_CREATION_REJECTED, Reason.CHECKPOINT_SAVED])
def test_long_warning_keeps_own_advice(reason):
    """Advice that is part of the message is kept as well."""
    event = warning(reason, "x" * 5000 + " → raise the quota")
    assert len(event.message) <= 1024
    assert event.message.endswith("x… → raise the quota")


def test_long_warning_without_advice_is_truncated():
    """Event messages are limited to 1024 characters."""
    assert len(warning(Reason.CHECKPOINT_SAVED, "x" * 5000).message) <= 1024
