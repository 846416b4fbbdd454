"""Progress in the status: how far the training is and how fast, and what `kubectl get` prints of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from resnext_operator.api.objects import Manifest
from resnext_operator.domain.timestamps import to_rfc3339
from resnext_trainer.contract import Progress

# An odd number, so that one evaluation or one slow poll is never the median's neighbour for long.
_STEP_TIME_SAMPLES = 9

RATES = ("imagesPerSecond", "estimatedCompletionTime")
"""Fields of the progress that hold only while steps are made."""

_RESULTS = ("loss", "top1", "top5", "bestTop1")
"""Fields of the progress that a new attempt does not know at first; the last values still hold."""

# A training that would take longer has no date of completion that anybody could use.
_LONGEST = timedelta(days=3650)


def update_progress(status: Manifest, attempt: Manifest | None, progress: Progress, now: datetime) -> None:
    """Put into the status how far the training is; nothing moves while no step is made."""
    shown = progress.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"attempt", "checkpoint", "resumed_step"}
    )
    before = status.get("progress") or {}
    merged = {**{key: before[key] for key in _RESULTS if key in before}, **shown}
    if attempt is not None:
        _record_step_time(status, attempt, progress.step, now)
        if progress.images_per_second:
            _estimate(merged, before, attempt, progress, now)
    moved = _lasting(merged) != _lasting(before)
    status["progress"] = {**merged, "updatedTime": to_rfc3339(now) if moved else before["updatedTime"]}


def _lasting(progress: Manifest) -> Manifest:
    return {key: value for key, value in progress.items() if key not in (*RATES, "updatedTime")}


def drop_rates(status: Manifest) -> None:
    """Take out of the status what holds only while steps are made; results stay."""
    if progress := status.get("progress"):
        status["progress"] = {key: value for key, value in progress.items() if key not in RATES}


def step_seconds(status: Manifest) -> float | None:
    """The median time of a step in the attempt under way; None before there are three samples."""
    samples = status.get("stepSeconds") or ()
    return median(samples) if len(samples) >= 3 else None


def _record_step_time(status: Manifest, attempt: Manifest, step: int, now: datetime) -> None:
    """One more sample of a step's time, from two answers of the same attempt with steps between them."""
    before = status.get("progress") or {}
    if before and "firstStep" in attempt and (steps := step - before["step"]) > 0:
        seconds = (now - datetime.fromisoformat(before["updatedTime"])).total_seconds() / steps
        samples: Sequence[float] = status.get("stepSeconds") or ()
        status["stepSeconds"] = [*samples, float(f"{seconds:.3g}")][-_STEP_TIME_SAMPLES:]
    if "firstStep" not in attempt:
        attempt |= {"firstStep": step, "firstTime": to_rfc3339(now)}


def _estimate(merged: Manifest, before: Manifest, attempt: Manifest, progress: Progress, now: datetime) -> None:
    """By the steps done since this attempt began; kept while no step was done since."""
    if progress.step == before.get("step") and "estimatedCompletionTime" in before:
        merged["estimatedCompletionTime"] = before["estimatedCompletionTime"]
        return
    done, spent = progress.step - attempt["firstStep"], now - datetime.fromisoformat(attempt["firstTime"])
    if done > 0 and spent > timedelta(0):
        seconds = spent.total_seconds() * max(0, progress.steps - progress.step) / done
        if seconds <= _LONGEST.total_seconds():
            merged["estimatedCompletionTime"] = to_rfc3339(now + timedelta(seconds=seconds))


def printer_columns(status: Manifest) -> dict[str, str]:
    """What `kubectl get` prints: its columns format nothing themselves."""
    workers, progress = status.get("workers") or {}, status.get("progress") or {}
    shown = {}
    if workers:
        shown["workers"] = f"{workers['ready']}/{workers['replicas']}"
    if "epochs" in progress:
        shown["epoch"] = f"{progress.get('epoch', 0):.1f}/{progress['epochs']}"
        shown["percent"] = f"{100 * progress.get('step', 0) / max(1, progress.get('steps', 1)):.0f}%"
    for key, places in (("imagesPerSecond", ".0f"), ("loss", ".3f"), ("top1", ".4f")):
        if key in progress:
            shown[key] = format(progress[key], places)
    if completion := progress.get("estimatedCompletionTime"):
        # Against the time of the progress, not of now: nothing is written while nothing moves.
        left = datetime.fromisoformat(completion) - datetime.fromisoformat(progress["updatedTime"])
        shown["eta"] = duration(left)
    return shown


def duration(time: timedelta) -> str:
    """A time as kubectl prints it in its AGE column: two units at most, such as 5m30s, 3h5m or 2d7h."""
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
