"""The Secret with the SSH keys was deleted and created again."""

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.rules.rule import StopReason
from resnext_operator.domain.workers import mounts_current_secret


def ssh_keys_recreated(draft: Draft) -> StopReason | None:
    """Stop if the launcher is pending and the workers mount a Secret that was replaced."""
    launcher, living = draft.launcher, [pod for pod in draft.state.workers if not pod.terminated]
    if draft.training.invalid or not launcher or launcher.phase != "Pending":
        return None
    if all(mounts_current_secret(draft, pod) for pod in living):
        return None
    message = "the Secret with the SSH keys was deleted and recreated: replacing all pods"
    return StopReason(Reason.SSH_KEYS_RECREATED, message)
