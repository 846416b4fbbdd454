"""Results of rules, and the evaluation of a chain of rules."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason


@dataclass(frozen=True)
class StopReason:
    """Why an attempt or a training must stop."""

    reason: Reason
    summary: str
    detail: str = ""
    """Details about the cause; empty if unknown."""

    @property
    def message(self) -> str:
        """Summary and detail."""
        return f"{self.summary}: {self.detail}" if self.detail else self.summary


@dataclass(frozen=True)
class Recheck:
    """The rule does not match yet; check again at this time."""

    time: datetime


Rule = Callable[[Draft], StopReason | Recheck | None]
"""A function of the draft without side effects."""


def due(draft: Draft, time: datetime) -> bool:
    """Whether a time has been reached."""
    return time <= draft.now


def first_match(draft: Draft, rules: Iterable[Rule]) -> StopReason | None:
    """The result of the first rule that matches. Requeues at the times that the rules before it return."""
    for rule in rules:
        match rule(draft):
            case StopReason() as found:
                return found
            case Recheck(time):
                draft.requeue_at(time)
    return None


def waits_for(draft: Draft, rule: Rule) -> bool:
    """Whether a rule requires waiting. Requeues at the time that it returns."""
    answer = rule(draft)
    if isinstance(answer, Recheck):
        draft.requeue_at(answer.time)
    return answer is not None
