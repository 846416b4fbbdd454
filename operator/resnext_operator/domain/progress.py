"""Progress in the status: completed steps, throughput, and the columns of `kubectl get`."""

from datetime import datetime, timedelta
from statistics import median

from resnext_operator.api.attempts import AttemptStatus
from resnext_operator.api.status import OperatorState, ProgressStatus, Status, Summary
from resnext_trainer.contract import Progress

# An odd number, so that the median is one of the samples.
_STEP_TIME_SAMPLES = 9

_RATES = {"images_per_second": None, "estimated_completion_time": None}
"""Fields of the progress that are valid only while steps are completed."""

_RESULTS = ("loss", "top1", "top5", "best_top1")
"""Fields of the progress that a new attempt does not report at first; the last values are kept."""

_REPORTED = ("epoch", "epochs", "step", "steps", "images_per_second", *_RESULTS)

# A longer estimate is omitted.
_MAX_REMAINING = timedelta(days=3650)


def update_progress(status: Status, attempt: AttemptStatus | None, progress: Progress, now: datetime) -> None:
    """Update the progress in the status; it does not change while no steps are completed."""
    before = status.progress
    known = {name: value for name in _REPORTED if (value := getattr(progress, name)) is not None}
    results = {name: value for name in _RESULTS if (value := getattr(before, name, None)) is not None}
    after = ProgressStatus.model_validate({**results, **known, "updated_time": now})
    if attempt is not None:
        status.operator_state = _with_step_time(status.operator_state, before, progress.step, now)
        if progress.images_per_second:
            completion = _completion_time(before, status.operator_state, progress, now)
            after = after.model_copy(update={"estimated_completion_time": completion})
    if before and _lasting(after) == _lasting(before):
        after = after.model_copy(update={"updated_time": before.updated_time})
    status.progress = after


def _lasting(progress: ProgressStatus) -> ProgressStatus:
    return progress.model_copy(update={**_RATES, "updated_time": None})


def drop_rates(status: Status) -> None:
    """Remove the fields that are valid only while steps are completed; results are kept."""
    if status.progress:
        status.progress = status.progress.model_copy(update=_RATES)


def step_seconds(status: Status) -> float | None:
    """Median step time of the current attempt; None for fewer than three samples."""
    samples = status.operator_state.step_seconds
    return median(samples) if len(samples) >= 3 else None


def _with_step_time(state: OperatorState, before: ProgressStatus | None, step: int, now: datetime) -> OperatorState:
    """Add a sample of the step time, from two reports of the same attempt with steps between them."""
    if state.first_step is None:
        return state.model_copy(update={"first_step": step, "first_time": now.replace(microsecond=0)})
    if before is None or (steps := step - before.step) <= 0:
        return state
    seconds = float(f"{(now - before.updated_time).total_seconds() / steps:.3g}")
    samples = [*state.step_seconds, seconds][-_STEP_TIME_SAMPLES:]
    return state.model_copy(update={"step_seconds": samples})


def _completion_time(
    before: ProgressStatus | None, state: OperatorState, progress: Progress, now: datetime
) -> datetime | None:
    """Estimate from the steps of the current attempt; kept while no steps are completed."""
    if before and progress.step == before.step and before.estimated_completion_time:
        return before.estimated_completion_time
    if state.first_step is None or state.first_time is None:
        return None
    done, spent = progress.step - state.first_step, now - state.first_time
    if done <= 0 or spent <= timedelta(0):
        return None
    seconds = spent.total_seconds() * max(0, progress.steps - progress.step) / done
    return now + timedelta(seconds=seconds) if seconds <= _MAX_REMAINING.total_seconds() else None


def summarize(status: Status) -> Summary:
    """The columns of `kubectl get`, which cannot format values itself."""
    shown: dict[str, str] = {}
    if workers := status.workers:
        shown["workers"] = f"{workers.ready}/{workers.replicas}"
    if progress := status.progress:
        shown["epoch"] = f"{progress.epoch or 0:.1f}/{progress.epochs}"
        shown["percent"] = f"{100 * progress.step / max(1, progress.steps):.0f}%"
        for name, places in (("images_per_second", ".0f"), ("loss", ".3f"), ("top1", ".4f")):
            if (value := getattr(progress, name)) is not None:
                shown[name] = format(value, places)
        if progress.estimated_completion_time:
            # Relative to the time of the progress, not to now, so that the status does not change without progress.
            shown["eta"] = duration(progress.estimated_completion_time - progress.updated_time)
    return Summary(**shown)


def duration(time: timedelta) -> str:
    """A duration in the format of the AGE column of kubectl: at most two units, such as 5m30s, 3h5m or 2d7h."""
    seconds = max(0, int(time.total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 24 * 8:
        return _two(hours // 24, "d", hours % 24, "h")
    return f"{hours // 24}d" if hours < 24 * 365 * 2 else _two(hours // 24 // 365, "y", hours // 24 % 365, "d")


def _two(greater: int, unit: str, lesser: int, lesser_unit: str) -> str:
    return f"{greater}{unit}{lesser}{lesser_unit}" if lesser else f"{greater}{unit}"
