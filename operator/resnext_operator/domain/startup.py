"""Failed starts: workers that end before an attempt has begun. A set counts once; the status keeps the reason."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import MAX_RECORDED_STARTS
from resnext_operator.domain.log_excerpt import last_lines
from resnext_operator.domain.observed import ObservedWorker
from resnext_operator.domain.timestamps import to_rfc3339

BACKOFF_FIRST, BACKOFF_LAST = timedelta(seconds=10), timedelta(minutes=5)

_WORD, _MESSAGE = 64, 512

ACCOUNTED = "podsAccountedUntil"
"""Field of the status: when the newest worker was created whose end is accounted for, by the API server's clock."""

FAILED_STARTS = "failedStarts"
"""Field of the status: the starts that failed since the last attempt."""


def failed_workers(workers: Iterable[ObservedWorker], accounted: str | None) -> list[ObservedWorker]:
    """The workers whose end is the failure of a start that is not accounted for yet.

    Evictions, lost nodes and deletions are not. Nor is a worker that was created before the last failed start was
    recorded, or before the last attempt ended: all workers of one start count once, also when they fail one by one.
    """
    failed = [pod for pod in workers if pod.finished and not (pod.deleting or pod.disrupted) and pod.created]
    return [pod for pod in failed if _created(pod) > (accounted or "")]


def account(status: Manifest, workers: Iterable[ObservedWorker]) -> None:
    """Whatever becomes of these workers is accounted for from now on."""
    if created := [_created(pod) for pod in workers if pod.created]:
        status[ACCOUNTED] = max(created)


def record(status: Manifest, pod: ObservedWorker, now: datetime) -> str:
    """Put a failed start into the status, with the last lines of the worker's log; returns it in one sentence."""
    lines = last_lines(pod.termination_message)
    reason = (pod.ended_by or "Failed")[:_WORD]
    where = f" on node {pod.node}" if pod.node else ""
    code = f", exit code {pod.exit_code}" if pod.exit_code is not None else ""
    # The end of a log says most.
    said = " / ".join(lines)[-_MESSAGE:]
    message = f"pod {pod.name}{where} ended before the training started ({reason}{code})" + (
        f": {said}" if said else ""
    )
    known: Manifest = {
        "time": to_rfc3339(now),
        "pod": pod.name,
        "reason": reason,
        "message": message,
        "log": list(lines),
    }
    if pod.node:
        known["node"] = pod.node
    if pod.exit_code is not None:
        known["exitCode"] = pod.exit_code
    status[FAILED_STARTS] = [*failed_starts(status), known][-MAX_RECORDED_STARTS:]
    return message


def failed_starts(status: Manifest) -> Sequence[Manifest]:
    """Those since the last attempt."""
    found: Sequence[Manifest] = status.get(FAILED_STARTS) or ()
    return found


def pause(failures: int) -> timedelta:
    """How long to wait after so many failures: doubled each time."""
    doubled: timedelta = BACKOFF_FIRST * 2 ** min(max(failures, 1) - 1, 10)
    return min(doubled, BACKOFF_LAST)


def _created(pod: ObservedWorker) -> str:
    return to_rfc3339(pod.created) if pod.created else ""
