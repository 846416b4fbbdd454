"""Suspension of the training."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason


def suspended(draft: Draft) -> StopReason | None:
    """Stop if spec.suspend is set."""
    if draft.training.spec.suspend:
        return StopReason(Reason.SUSPENDING, "saving a checkpoint before deleting pods")
    return None
