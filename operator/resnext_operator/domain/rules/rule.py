"""What a rule answers, and the chain that rules are evaluated in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason


@dataclass(frozen=True)
class StopReason:
    """Why something must end."""

    reason: Reason
    summary: str
    detail: str = ""
    """What is known of the cause; empty if nothing is."""

    @property
    def message(self) -> str:
        """Summary and detail."""
        return f"{self.summary}: {self.detail}" if self.detail else self.summary


@dataclass(frozen=True)
class Recheck:
    """The rule does not apply yet; it may from this time on."""

    time: datetime


Rule = Callable[[Draft], StopReason | Recheck | None]
"""A function of what is known, without side effects."""


def due(draft: Draft, time: datetime) -> bool:
    """Whether a time has come."""
    return time <= draft.now


def first_match(draft: Draft, rules: Iterable[Rule]) -> StopReason | None:
    """The answer of the first rule that applies; the draft is decided again when one of those before it may apply."""
    for rule in rules:
        match rule(draft):
            case StopReason() as found:
                return found
            case Recheck(time):
                draft.requeue_at(time)
    return None


def waits_for(draft: Draft, rule: Rule) -> bool:
    """Whether a rule postpones something; the draft is decided again at that time."""
    answer = rule(draft)
    if isinstance(answer, Recheck):
        draft.requeue_at(answer.time)
    return answer is not None
