"""The user suspends the training."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason


def suspended(draft: Draft) -> StopReason | None:
    """spec.suspend: the attempt saves a checkpoint, and all pods are deleted."""
    if draft.training.spec.suspend:
        return StopReason(Reason.SUSPENDING, "saving a checkpoint before deleting pods")
    return None
