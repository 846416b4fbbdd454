"""Goodput: the fraction of a training's wall time that went into steps that were kept.

The wall time between two decisions is divided into the activities that the ranks report and a rest, which depends
on the phase of the training. The time for which a training is suspended does not count.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from resnext_operator.api.status import ActivitySeconds, GoodputStatus, Phase, Status
from resnext_trainer.contract import Progress

ACTIVITIES = tuple(ActivitySeconds.model_fields)

_OF_TRAINER_PHASE = {
    **dict.fromkeys(("data_wait", "compute", "allreduce", "optimizer"), "steps"),
    "compile": "compilation",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint",
    "rollback": "lost",
}
"""Activity of each phase that a rank reports; others are `other`."""

_WHILE = {Phase.PENDING: "queueing", Phase.RESTARTING: "queueing", Phase.STARTING: "startup"}
"""Activity of a training whose ranks complete no steps."""

_GRACEFUL = ("completed", "stopped")


def account(status: Status, before: Status, reports: Iterable[Progress], now: datetime) -> None:
    """Add the time since the last call to `status`, if the training progressed or changed its phase.

    before: the stored status. reports: progress reports of the last attempt, newest last.
    """
    if not _changed(status, before):
        return
    state = before.operator_state
    report = next((each for each in reversed([*reports]) if status.last_attempt_number == each.attempt), None)
    resumed = status.last_attempt_number != before.last_attempt_number
    known = ActivitySeconds() if resumed else state.reported
    reported = _by_activity(report.phase_seconds) if report else known
    if state.accounted_until is not None and before.phase is not Phase.SUSPENDED:
        elapsed = (now - state.accounted_until).total_seconds()
        spent = {name: max(0.0, getattr(reported, name) - getattr(known, name)) for name in ACTIVITIES}
        seconds = _after_loss(before.goodput.seconds if before.goodput else ActivitySeconds(), status, before)
        rest = _rest(status, before, reports_phases=bool(report and report.phase_seconds))
        if rest == "startup":
            # Work of the ranks outside their phases, such as importing TensorFlow.
            spent |= {"other": 0.0}
        seconds = _sum(seconds, spent | {rest: spent[rest] + elapsed - sum(spent.values())})
        status.goodput = GoodputStatus(ratio=round(ratio_of(seconds), 4), seconds=seconds)
    status.operator_state = status.operator_state.model_copy(update={"accounted_until": now, "reported": reported})


def so_far(status: Status, now: datetime) -> ActivitySeconds:
    """The wall time by activity until now: includes the time for which a training waits at present."""
    seconds = status.goodput.seconds if status.goodput else ActivitySeconds()
    until, activity = status.operator_state.accounted_until, _WHILE.get(status.phase or Phase.PENDING)
    if until is None or activity is None:
        return seconds
    return _sum(seconds, {activity: max(0.0, (now - until).total_seconds())})


def ratio_of(seconds: ActivitySeconds) -> float:
    """The goodput of a wall time; 0 at the start."""
    total = sum(getattr(seconds, name) for name in ACTIVITIES)
    return seconds.steps / total if total else 0.0


def _changed(status: Status, before: Status) -> bool:
    def state(of: Status) -> tuple[object, ...]:
        return of.phase, of.last_attempt_number, of.progress.step if of.progress else 0

    return state(status) != state(before) or before.operator_state.accounted_until is None


def _rest(status: Status, before: Status, *, reports_phases: bool) -> str:
    """Activity of the time that the ranks have not reported."""
    if activity := _WHILE.get(before.phase or Phase.PENDING):
        return activity
    last = status.last_attempt
    if last and last.ended and last.cause not in _GRACEFUL:
        return "lost"
    return "other" if reports_phases else "steps"


def _after_loss(seconds: ActivitySeconds, status: Status, before: Status) -> ActivitySeconds:
    """Move the time of steps that are repeated from `steps` to `lost`."""
    done, last, same = before.progress.step if before.progress else 0, status.last_attempt, before.last_attempt
    if not done or last is None or status.progress is None:
        return seconds
    start = status.progress.step
    if last.resumed_step is not None and (same is None or same.resumed_step is None or same.number != last.number):
        start = last.resumed_step
    lost = seconds.steps * max(0, done - start) / done
    return _sum(seconds, {"steps": -lost, "lost": lost})


def _by_activity(phase_seconds: Mapping[str, float]) -> ActivitySeconds:
    found: defaultdict[str, float] = defaultdict(float)
    for phase, seconds in phase_seconds.items():
        found[_OF_TRAINER_PHASE.get(phase, "other")] += seconds
    return ActivitySeconds(**found)


def _sum(seconds: ActivitySeconds, more: Mapping[str, float]) -> ActivitySeconds:
    """The sum, in milliseconds. The clocks of ranks and operator differ, so a part could become negative."""
    return seconds.model_copy(
        update={name: max(0.0, round(getattr(seconds, name) + value, 3)) for name, value in more.items()}
    )
