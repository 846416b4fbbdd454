"""Failed starts: workers that exit before an attempt starts. All workers of one start count as one failure."""

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
    """The workers that failed to start and are not counted yet.

    Evictions, lost nodes and deletions do not count. Workers that were created before the last failed start was
    recorded, or before the last attempt ended, do not count either: all workers of one start count as one failure.

    accounted_until: creation time of the newest worker that is already counted, by the clock of the API server.
    """
    failed = [pod for pod in workers if pod.finished and not (pod.deleting or pod.disrupted)]
    return [pod for pod in failed if pod.created and (accounted_until is None or pod.created > accounted_until)]


def account(status: Status, workers: Iterable[ObservedWorker]) -> None:
    """Mark these workers as counted."""
    if created := [pod.created for pod in workers if pod.created]:
        status.operator_state = status.operator_state.model_copy(update={"pods_accounted_until": max(created)})


def record(status: Status, pod: ObservedWorker, now: datetime) -> str:
    """Record a failed start in the status, with the last lines of the log of the worker. Returns its message."""
    lines = last_lines(pod.termination_message)
    reason = (pod.ended_by or "Failed")[:_WORD]
    where = f" on node {pod.node}" if pod.node else ""
    code = f", exit code {pod.exit_code}" if pod.exit_code is not None else ""
    # The end of a log is the most informative.
    excerpt = " / ".join(lines)[-_MESSAGE:]
    message = f"pod {pod.name}{where} exited before the training started ({reason}{code})" + (
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


def backoff(failures: int) -> timedelta:
    """Duration of the backoff after this number of failures."""
    return exponential_delay(BACKOFF_FIRST, BACKOFF_LAST, max(failures, 1) - 1)
