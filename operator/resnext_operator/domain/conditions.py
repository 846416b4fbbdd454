"""Conditions of the status, as in metav1.Condition."""

from collections.abc import Iterable
from datetime import datetime

from resnext_operator.api.status import Condition, ConditionType
from resnext_operator.domain.reasons import Reason


class Conditions:
    """The conditions of a training. The transition time of a condition changes only with its status."""

    def __init__(self, before: Iterable[Condition], generation: int, now: datetime) -> None:
        self._all = {each.type: each for each in before}
        self._generation, self._now = generation, now

    def set(self, kind: ConditionType, holds: bool, reason: Reason, message: str = "") -> None:
        after = Condition(
            type=kind.value,
            status="True" if holds else "False",
            reason=reason.value,
            message=message,
            observed_generation=self._generation,
            last_transition_time=self._now,
        )
        (self._all[kind],) = keep_transitions(filter(None, [self._all.get(kind)]), [after])

    def get(self, kind: ConditionType) -> Condition | None:
        return self._all.get(kind)

    def is_true(self, kind: ConditionType) -> bool:
        return (found := self.get(kind)) is not None and found.status == "True"

    def is_false(self, kind: ConditionType) -> bool:
        return (found := self.get(kind)) is not None and found.status == "False"

    def reason(self, kind: ConditionType) -> str:
        """The reason of a condition; empty if it was never set."""
        return found.reason if (found := self.get(kind)) else ""

    def message(self, kind: ConditionType) -> str:
        """The message of a condition; empty if it was never set."""
        return found.message if (found := self.get(kind)) else ""

    def last_transition_time(self, kind: ConditionType) -> datetime:
        """Last transition of a condition. Raises KeyError if it was never set."""
        return self._all[kind].last_transition_time

    def all(self) -> list[Condition]:
        return list(self._all.values())


def keep_transitions(before: Iterable[Condition], after: Iterable[Condition]) -> list[Condition]:
    """Conditions after a change: the transition time is kept if the status is the same before and after."""
    stood = {each.type: each for each in before}
    return [
        each.model_copy(update={"last_transition_time": old.last_transition_time})
        if (old := stood.get(each.type)) and old.status == each.status
        else each
        for each in after
    ]
