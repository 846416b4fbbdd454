"""Conditions of the status, as metav1.Condition."""

from datetime import datetime
from typing import Any

from resnext_operator.api.objects import Manifest
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.timestamps import to_rfc3339


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
            "lastTransitionTime": to_rfc3339(self._now) if changed else before["lastTransitionTime"],
        }

    def get(self, kind: str) -> Manifest:
        return self._all.get(kind, {})

    def is_true(self, kind: str) -> bool:
        return self.get(kind).get("status") == "True"

    def last_transition_time(self, kind: str) -> datetime:
        """When it last changed; it must be there."""
        return datetime.fromisoformat(self._all[kind]["lastTransitionTime"])

    def all(self) -> list[Manifest]:
        return list(self._all.values())


def keep_transitions(before: Any, after: list[Manifest]) -> list[Manifest]:
    """Conditions after several steps: the transition time of one that ends where it was before does not move."""
    stood = {each["type"]: each for each in before or ()}
    return [
        {**each, "lastTransitionTime": old["lastTransitionTime"]}
        if (old := stood.get(each["type"], {})).get("status") == each["status"]
        else each
        for each in after
    ]
