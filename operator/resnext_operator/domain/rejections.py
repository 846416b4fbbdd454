"""Objects that the API server does not create: why, what to do about it, when to try again, and what the status keeps.

The status keeps a rejection until the whole set of pods exists: `cause`, `message`, `since`, `tries`, `retryTime`,
`heldSince` (when its pods began to wait for the missing ones) and `released` (how often they were deleted for that).
"""

import hashlib
import re
from datetime import datetime, timedelta
from enum import StrEnum

from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import Phase
from resnext_operator.api.training import Training
from resnext_operator.domain.conditions import Conditions, keep_transitions
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.plan import Plan
from resnext_operator.domain.progress import drop_rates, printer_columns
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.domain.timestamps import to_rfc3339, to_rfc3339_millis
from resnext_operator.rendering import names

RETRY_FIRST, RETRY_LAST = timedelta(seconds=1), timedelta(minutes=1)
RELEASED_FIRST, RELEASED_LAST = timedelta(seconds=20), timedelta(minutes=5)

_SCHEDULING_REASONS = (Reason.UNSCHEDULABLE, Reason.NOT_STARTING, Reason.CLAIM_MISSING, Reason.DETACHING)
"""Reported again by each try, since a rejection takes their place in the status."""

# What an admission webhook or policy may add without bound.
_LONGEST = 700


class Cause(StrEnum):
    """Why the API server rejects an object."""

    INVALID = "Invalid"
    QUOTA = "Quota"
    LIMIT_RANGE = "LimitRange"
    POD_SECURITY = "PodSecurity"
    WEBHOOK = "Webhook"
    POLICY = "Policy"
    RIGHTS = "Rights"
    OTHER = "Other"


_SIGNS = (
    (Cause.QUOTA, r"exceeded quota:|failed quota:|insufficient quota|unknown for quota"),
    (Cause.POD_SECURITY, r"violates PodSecurity"),
    (Cause.WEBHOOK, r"admission webhook "),
    (Cause.POLICY, r"ValidatingAdmissionPolicy "),
    # The spec's own requests are at most its limits: where they are not, the limit is a LimitRange's default.
    (
        Cause.LIMIT_RANGE,
        r"usage per (Container|Pod|PersistentVolumeClaim)|limit to request ratio per "
        r"|must be less than or equal to \S+ limit",
    ),
    (Cause.RIGHTS, r'User "[^"]*" cannot '),
)
"""How a message shows its cause; the first that fits."""


def cause_of(rejection: Rejection) -> Cause:
    """Why an object was rejected. Webhooks and policies may answer 400 or 422 as well, and may change their minds."""
    found = next((cause for cause, sign in _SIGNS if re.search(sign, rejection.message)), None)
    if found is not None:
        return found
    return Cause.INVALID if rejection.code in (400, 422) else Cause.OTHER


def advice(rejection: Rejection) -> str:
    """What to do about it, with the field's name where the message contains it."""
    said, part = rejection.message, "launcher" if rejection.role == "launcher" else "workers"
    fields = _fields(rejection)
    listed = " and ".join(fields)
    match cause_of(rejection):
        case Cause.QUOTA if "must specify" in said:
            return f"set {listed}" if fields else f"set the missing limits in spec.{part}.resources"
        case Cause.QUOTA:
            return (
                f"raise the namespace's ResourceQuota, or lower {' or '.join(fields) or 'what the training requests'}"
            )
        case Cause.LIMIT_RANGE:
            return f"change {listed or f'spec.{part}.resources'} to what the namespace's LimitRange allows"
        case Cause.POD_SECURITY:
            return (
                "remove the volumes of type hostPath and hostNetwork from spec.workers, "
                "or use a namespace whose Pod Security level allows them"
            )
        case Cause.WEBHOOK:
            return "change the field that the webhook names, or ask the owner of the webhook"
        case Cause.POLICY:
            return "change the field that the policy names, or ask the owner of the policy"
        case Cause.RIGHTS:
            return "grant this right to the operator's service account: install the chart's current role"
        case Cause.INVALID:
            return "correct the field that the message names"
    if "PriorityClass" in said:
        return f"create the PriorityClass, or change spec.{part}.priorityClassName"
    if "RuntimeClass" in said:
        return f"create the RuntimeClass, or change spec.{part}.runtimeClassName"
    if "being terminated" in said:
        return "the namespace is being deleted: create the training in another one"
    return "read the message; the operator tries again"


def _fields(rejection: Rejection) -> list[str]:
    """The fields of the spec that a message of a quota or a LimitRange is about."""
    said = rejection.message
    if rejection.kind == "PersistentVolumeClaim":
        return ["spec.checkpoints.template.size"]
    part = f"spec.{'launcher' if rejection.role == 'launcher' else 'workers'}"
    found: list[str] = []
    if missing := re.search(r"must specify (.*)", said, re.DOTALL):
        # Such as "limits.cpu for: launcher; requests.memory for: launcher", and "limits.cpu,limits.memory" before 1.24.
        found = [name for name in re.split(r"[;,]\s*", re.sub(r" for: [^;]*", "", missing[1])) if name]
    elif requested := re.search(r"requested: (.*?)(, used:|$)", said, re.DOTALL):
        found = [name.partition("=")[0] for name in requested[1].split(",")]
    else:
        for name, rest in re.findall(
            r"(?:maximum|minimum) (\S+) usage per \w+ is ([^\]]*?)(?=, m(?:ax|in)imum|\]|$)", said
        ):
            found.append(f"{'limits' if 'limit' in rest else 'requests'}.{name}")
        found += [f"limits.{name}" for name in re.findall(r"(\S+) max limit to request ratio per", said)]
        found += [f"limits.{name}" for name in re.findall(r"must be less than or equal to (\S+) limit", said)]
    fields = [_field(part, name.strip(), rejection.role) for name in found]
    return list(dict.fromkeys(filter(None, fields)))


def _field(part: str, name: str, role: str) -> str:
    """A quota's name of a resource as the field of the spec that sets it."""
    kind, _, resource = name.partition(".")
    if kind in ("limits", "requests") and resource:
        # An extended resource is written as a limit alone.
        return f"{part}.resources.{'limits' if '/' in resource else kind}.{resource}"
    if name in ("cpu", "memory", "ephemeral-storage"):
        return f"{part}.resources.requests.{name}"
    if name in ("pods", "count/pods"):
        return "spec.workers.replicas" if role == "worker" else ""
    return ""


def plan_after_api_rejection(training: Training, plan: Plan, rejection: Rejection, now: datetime) -> Plan:
    """What is recorded when the API server has rejected an object of a plan.

    The rest of the plan is recorded as well, so that deadlines count from what happened and not from the last try. But
    for a launcher: an attempt that was not created must not be recorded, or the next decision would find it lost.
    """
    launches = any(each["metadata"]["labels"].get(names.ROLE) == "launcher" for each in plan.create)
    status = dict(training.status if launches else plan.status)
    status.setdefault("phase", Phase.PENDING.value)
    status.setdefault("startTime", to_rfc3339(now))
    conditions = Conditions(plan.status.get("conditions"), training.generation, now)
    cause, said = cause_of(rejection), rejection.message[:_LONGEST]
    message = f"{rejection.kind} {rejection.name} is rejected ({rejection.code}): {said} → {advice(rejection)}"
    events = () if launches else tuple(event for event in plan.events if event.reason not in _SCHEDULING_REASONS)
    if cause is Cause.INVALID and not training.status.get("attempts"):
        conditions.set("PodsInvalid", True, Reason.PODS_INVALID, message)
        conditions.set("Failed", True, Reason.PODS_INVALID, message)
        status |= {"phase": Phase.FAILED.value, "reason": Reason.PODS_INVALID.value, "completionTime": to_rfc3339(now)}
        status["conditions"] = conditions.all()
        drop_rates(status)
        status["printed"] = printer_columns(status)
        return Plan(status=status, events=(*events, warning(Reason.PODS_INVALID, message)))
    before = training.status.get("rejection") or {}
    tries = before.get("tries", 0) + 1
    wait = _varied(training, tries, RETRY_FIRST, RETRY_LAST)
    kept = {key: before[key] for key in ("heldSince", "released") if key in before}
    status["rejection"] = {
        **kept,
        "since": before.get("since", to_rfc3339(now)),
        "cause": cause.value,
        "role": rejection.role,
        "message": message,
        "tries": tries,
        "generation": training.generation,
        "retryTime": to_rfc3339_millis(now + wait),
    }
    reason = Reason.PODS_INVALID if cause is Cause.INVALID else Reason.PODS_REFUSED
    if cause is Cause.INVALID:
        conditions.set("PodsInvalid", True, reason, message)
    conditions.set("Scheduled", False, reason, message)
    if training.status.get("reason") != reason or before.get("cause") != cause.value:
        events += (warning(reason, message),)
    # The plan was decided from the stored status, and passes through states that are not stored.
    kept_times = keep_transitions(training.status.get("conditions"), conditions.all())
    status |= {"reason": reason.value, "conditions": kept_times}
    if workers := plan.status.get("workers"):
        status["workers"] = workers
    status["printed"] = printer_columns(status)
    soonest = min(wait, plan.requeue_after) if plan.requeue_after else wait
    return Plan(status=status, events=events, requeue_after=soonest)


def released(training: Training, rejection: Manifest, now: datetime) -> tuple[Manifest, timedelta]:
    """The rejection after its pods are deleted, and the pause before the next try."""
    times = rejection.get("released", 0) + 1
    wait = _varied(training, times, RELEASED_FIRST, RELEASED_LAST)
    kept = {key: value for key, value in rejection.items() if key != "heldSince"}
    return {**kept, "released": times, "tries": 0, "retryTime": to_rfc3339_millis(now + wait)}, wait


def _varied(training: Training, times: int, first: timedelta, last: timedelta) -> timedelta:
    """A doubling pause, half to one and a half of it: different for each training, so that two that hold parts of one
    quota do not try again at the same time; and the same whenever it is computed."""
    digest = hashlib.sha256(f"{training.uid}/{times}/{first}".encode()).digest()
    share = 0.5 + int.from_bytes(digest[:4], "big") / 2**32
    doubled: timedelta = first * 2 ** min(times - 1, 10)
    return min(doubled, last) * share
