"""The pod settings in the spec changed."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason
from resnext_operator.domain.workers import is_current


def pod_template_changed(draft: Draft) -> StopReason | None:
    """Stop if a live worker was created from settings that differ from those in the spec."""
    if all(is_current(draft, pod) for pod in draft.state.workers if not pod.terminated):
        return None
    message = "pod settings changed: saving a checkpoint, then recreating pods"
    return StopReason(Reason.POD_TEMPLATE_CHANGED, message)
