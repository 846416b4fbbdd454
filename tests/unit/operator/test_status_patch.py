"""The merge patch that a status is written with."""

from resnext_operator.runtime.status_patch import merge_patch


def test_status_patch_contains_only_changes():
    """Removed fields are null; an unchanged status gives an empty patch."""
    old = {"phase": "Running", "progress": {"step": 1, "loss": 2.0}, "reason": "StepsProgressing"}
    new = {"phase": "Running", "progress": {"step": 2}}
    assert merge_patch(old, new) == {"reason": None, "progress": {"step": 2, "loss": None}}
    assert merge_patch(new, new) == {}
