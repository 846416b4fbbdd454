"""What the status holds: conditions, how far the training is and how fast, and what `kubectl get` prints of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from resnext_operator.api import Manifest
from resnext_operator.policy.reasons import Reason
from resnext_trainer.report import Progress

# An odd number, so that one evaluation or one slow poll is never the median's neighbour for long.
_PACES = 9


class Conditions:
    """metav1.Conditions, whose transition time moves only with their status."""

    def __init__(self, before: Any, generation: int, now: datetime) -> None:
        self._all = {each["type"]: dict(each) for each in before or ()}
        self._generation, self._now = generation, now

    def set(self, kind: str, holds: bool, reason: Reason, message: str = "") -> None:
        status = "True" if holds else "False"
        before = self._all.get(kind, {})
        changed = before.get("status") != status
        self._all[kind] = {
            "type": kind,
            "status": status,
            "reason": reason.value,
            "message": message,
            "observedGeneration": self._generation,
            "lastTransitionTime": stamp(self._now) if changed else before["lastTransitionTime"],
        }

    def get(self, kind: str) -> Manifest:
        return self._all.get(kind, {})

    def holds(self, kind: str) -> bool:
        return self.get(kind).get("status") == "True"

    def since(self, kind: str) -> datetime:
        """When it last changed; it must be there."""
        return datetime.fromisoformat(self._all[kind]["lastTransitionTime"])

    def all(self) -> list[Manifest]:
        return list(self._all.values())


def take_progress(status: Manifest, attempt: Manifest | None, progress: Progress, now: datetime) -> None:
    """Put into the status how far the training is; nothing moves while no step is made."""
    shown = progress.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"attempt", "checkpoint", "resumed_step"}
    )
    before = status.get("progress") or {}
    # A new attempt has no accuracy before its first evaluation; the last one known still holds.
    merged = {**{key: before[key] for key in ("top1", "top5", "bestTop1") if key in before}, **shown}
    if attempt is not None:
        _take_pace(status, attempt, progress.step, now)
        if progress.images_per_second:
            _estimate(merged, before, attempt, progress, now)
    if {**merged, "updatedTime": 0} != {**before, "updatedTime": 0}:
        status["progress"] = {**merged, "updatedTime": stamp(now)}


def step_seconds(status: Manifest) -> float | None:
    """The median time of a step in the attempt under way; None before there are three samples."""
    samples = status.get("stepSeconds") or ()
    return median(samples) if len(samples) >= 3 else None


def _take_pace(status: Manifest, attempt: Manifest, step: int, now: datetime) -> None:
    """One more sample of a step's time, from two answers of the same attempt with steps between them."""
    before = status.get("progress") or {}
    if "firstStep" in attempt and (steps := step - before["step"]) > 0:
        seconds = (now - datetime.fromisoformat(before["updatedTime"])).total_seconds() / steps
        samples: Sequence[float] = status.get("stepSeconds") or ()
        status["stepSeconds"] = [*samples, float(f"{seconds:.3g}")][-_PACES:]
    if "firstStep" not in attempt:
        attempt |= {"firstStep": step, "firstTime": stamp(now)}


def _estimate(merged: Manifest, before: Manifest, attempt: Manifest, progress: Progress, now: datetime) -> None:
    """By the steps done since this attempt began; kept while no step was done since."""
    if progress.step == before.get("step") and "estimatedCompletionTime" in before:
        merged["estimatedCompletionTime"] = before["estimatedCompletionTime"]
        return
    done, spent = progress.step - attempt["firstStep"], now - datetime.fromisoformat(attempt["firstTime"])
    if done > 0 and spent > timedelta(0):
        merged["estimatedCompletionTime"] = stamp(now + spent * ((progress.steps - progress.step) / done))


def printed(status: Manifest) -> dict[str, str]:
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
    return shown


def stamp(now: datetime) -> str:
    """A time as the API writes it, whole seconds in UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
