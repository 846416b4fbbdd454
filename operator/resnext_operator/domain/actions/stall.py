"""Stall detection."""

from datetime import timedelta

from resnext_operator.api.status import ConditionType, ProgressStatus
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.plan import Event
from resnext_operator.domain.progress import step_seconds
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.domain.rules.rule import due

# Polls are seconds apart, and a minute without a step is not a stall.
MIN_STALL = timedelta(minutes=1)

_MAX_RANKS_LISTED = 16


def detect_stall(draft: Draft) -> None:
    """Set the condition Stalled. Called only after a poll by this process: while it was down, it observed no steps."""
    usual, progress = step_seconds(draft.status), draft.status.progress
    if usual is None or progress is None:
        return
    multiple = draft.training.spec.run_policy.stall_timeout_multiple
    stalls_at = progress.updated_time + max(MIN_STALL, timedelta(seconds=usual * multiple))
    stalled = draft.conditions.is_true(ConditionType.STALLED)
    if not due(draft, stalls_at):
        draft.requeue_at(stalls_at)
        if stalled:
            message = f"progress resumed at step {progress.step}"
            draft.conditions.set(ConditionType.STALLED, False, Reason.PROGRESS_RESUMED, message)
            draft.events.append(Event("Normal", Reason.PROGRESS_RESUMED, message))
    elif not stalled:
        quiet = (draft.now - progress.updated_time).total_seconds()
        message = (
            f"no step completed for {quiet:.0f} s (median step time {usual:.2g} s); last step per rank: "
            f"{_format_last_steps(draft, progress)}"
        )
        draft.conditions.set(ConditionType.STALLED, True, Reason.STALLED, message)
        draft.events.append(warning(Reason.STALLED, message))


def _format_last_steps(draft: Draft, progress: ProgressStatus) -> str:
    steps = {0: progress.step, **draft.state.last_steps}
    listed = [
        f"rank {rank} does not respond" if step is None else f"rank {rank} at {step}"
        for rank, step in sorted(steps.items(), key=lambda each: (each[1] is not None, each[0]))
    ]
    more = len(listed) - _MAX_RANKS_LISTED
    return ", ".join(listed[:_MAX_RANKS_LISTED]) + (f", and {more} more" if more > 0 else "")
