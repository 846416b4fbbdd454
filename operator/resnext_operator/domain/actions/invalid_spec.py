"""A training with an invalid spec, between two attempts."""

from resnext_operator.domain.actions.finish import fail, fail_if_pending_too_long
from resnext_operator.domain.actions.worker_counts import set_workers_ready
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.workers import live_workers


def keep_pods(draft: Draft) -> None:
    """Keep the pods and create nothing. A training without pods fails."""
    living = live_workers(draft)
    if not living and all(each.deleted or each.finished for each in draft.state.launchers):
        fail(draft, Reason.SPEC_INVALID, draft.training.invalid)
        return
    set_workers_ready(draft, sum(1 for pod in living.values() if pod.ready))
    fail_if_pending_too_long(draft)
