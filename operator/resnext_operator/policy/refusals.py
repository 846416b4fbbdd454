"""What is recorded of a training that cannot be carried out as it is: by its own fault, or for now by the cluster's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from resnext_operator.api import Event, Phase, Plan, Training
from resnext_operator.policy.reasons import Reason
from resnext_operator.policy.record import Conditions, stamp


def refused(before: Mapping[str, Any], generation: int, message: str, now: datetime) -> Plan:
    """For a resource that an API server without our rules let pass; `before` is its status."""
    conditions = Conditions(before.get("conditions"), generation, now)
    conditions.set("Accepted", False, Reason.INVALID, message)
    conditions.set("Failed", True, Reason.INVALID, message)
    status = {
        **before,
        "phase": Phase.FAILED.value,
        "reason": Reason.INVALID.value,
        "observedGeneration": generation,
        "conditions": conditions.all(),
    }
    told = () if before.get("phase") == Phase.FAILED else (Event("Warning", Reason.INVALID, message),)
    return Plan(status=status, events=told)


def hindered(training: Training, message: str, now: datetime) -> Plan:
    """When the API server refuses an object, by a quota or an admission rule; it is asked again later.

    Nothing else of the plan is recorded, since not all of it was done; but the clock of the deadlines must start.
    """
    status = dict(training.status)
    status.setdefault("phase", Phase.PENDING.value)
    status.setdefault("startTime", stamp(now))
    conditions = Conditions(status.get("conditions"), training.generation, now)
    conditions.set("Scheduled", False, Reason.PODS_REFUSED, message)
    told = () if status.get("reason") == Reason.PODS_REFUSED else (Event("Warning", Reason.PODS_REFUSED, message),)
    status |= {"reason": Reason.PODS_REFUSED.value, "conditions": conditions.all()}
    return Plan(status=status, events=told)
