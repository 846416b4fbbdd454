"""Objects that all attempts of a training share, and the Secret that its pods mount."""

from collections.abc import Sequence
from datetime import timedelta

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.observed import ObservedPod
from resnext_operator.domain.rules.rejection_backoff import rejection_backoff
from resnext_operator.domain.rules.rule import due, waits_for
from resnext_operator.rendering.hashing import spec_hash
from resnext_operator.rendering.shared_objects import shared_objects

# A container whose image is present starts within seconds; otherwise the Secret that it mounts may be missing.
SECRET_MOUNT_GRACE = timedelta(seconds=30)

MUTABLE_KINDS = ("NetworkPolicy",)
"""Children that are updated. ConfigMaps and claims are not changed after their creation."""


def ensure_shared_objects(draft: Draft) -> None:
    """Create the shared objects that are missing, and update those that may change."""
    if draft.training.invalid or waits_for(draft, rejection_backoff):
        return
    for child in shared_objects(draft.training):
        kind, name = child["kind"], child["metadata"]["name"]
        known = draft.state.present.get((kind, name))
        if known is None:
            draft.create.append(child)
        # An object without the hash annotation would be updated in every reconciliation.
        elif kind in MUTABLE_KINDS and known and known != spec_hash(child):
            draft.update.append(child)


def check_secret(draft: Draft, pods: Sequence[ObservedPod]) -> None:
    """Check the Secret if a scheduled pod does not start: the Secret may have been deleted."""
    waiting = [pod.scheduled for pod in pods if pod.phase == "Pending" and pod.scheduled and not pod.waiting_reason]
    if not waiting or draft.state.keys is not None or draft.training.invalid:
        return
    overdue = min(waiting) + SECRET_MOUNT_GRACE
    if due(draft, overdue):
        draft.needs_ssh_secret = True
    else:
        draft.requeue_at(overdue)
