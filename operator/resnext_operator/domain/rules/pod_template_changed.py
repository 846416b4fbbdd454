"""The user changes the settings that pods are created from."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason
from resnext_operator.domain.workers import is_current


def pod_template_changed(draft: Draft) -> StopReason | None:
    """A living worker was created from other settings than those of the spec."""
    if all(is_current(draft, pod) for pod in draft.state.workers if not pod.terminated):
        return None
    message = "the pods were asked for with other settings: saving a checkpoint to go on from"
    return StopReason(Reason.PODS_CHANGED, message)
