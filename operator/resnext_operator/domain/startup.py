"""Failed starts: workers that end before an attempt has begun. A set counts once; the status keeps the reason."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from resnext_operator.api.attempts import MAX_RECORDED_STARTS, FailedStart
from resnext_operator.api.status import Status
from resnext_operator.domain.backoff import exponential_delay
from resnext_operator.domain.log_excerpt import last_lines
from resnext_operator.domain.observed import ObservedWorker

BACKOFF_FIRST, BACKOFF_LAST = timedelta(seconds=10), timedelta(minutes=5)

_WORD, _MESSAGE = 64, 512


def failed_workers(workers: Iterable[ObservedWorker], accounted_until: datetime | None) -> list[ObservedWorker]:
    """The workers whose end is the failure of a start that is not accounted for yet.

    Evictions, lost nodes and deletions are not. Nor is a worker that was created before the last failed start was
    recorded, or before the last attempt ended: all workers of one start count once, also when they fail one by one.

    accounted_until: when the newest worker was created whose end is accounted for, by the API server's clock.
    """
    failed = [pod for pod in workers if pod.finished and not (pod.deleting or pod.disrupted)]
    return [pod for pod in failed if pod.created and (accounted_until is None or pod.created > accounted_until)]


def account(status: Status, workers: Iterable[ObservedWorker]) -> None:
    """Whatever becomes of these workers is accounted for from now on."""
    if created := [pod.created for pod in workers if pod.created]:
        status.operator_state = status.operator_state.model_copy(update={"pods_accounted_until": max(created)})


def record(status: Status, pod: ObservedWorker, now: datetime) -> str:
    """Put a failed start into the status, with the last lines of the worker's log; returns it in one sentence."""
    lines = last_lines(pod.termination_message)
    reason = (pod.ended_by or "Failed")[:_WORD]
    where = f" on node {pod.node}" if pod.node else ""
    code = f", exit code {pod.exit_code}" if pod.exit_code is not None else ""
    # The end of a log says most.
    excerpt = " / ".join(lines)[-_MESSAGE:]
    message = f"pod {pod.name}{where} ended before the training started ({reason}{code})" + (
        f": {excerpt}" if excerpt else ""
    )
    failed = FailedStart(
        time=now,
        pod=pod.name,
        node=pod.node or None,
        reason=reason,
        exit_code=pod.exit_code,
        message=message,
        log=list(lines),
    )
    status.failed_starts = [*status.failed_starts, failed][-MAX_RECORDED_STARTS:]
    return message


def pause(failures: int) -> timedelta:
    """How long to wait after so many failures: doubled each time."""
    return exponential_delay(BACKOFF_FIRST, BACKOFF_LAST, max(failures, 1) - 1)
