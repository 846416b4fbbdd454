"""Objects that the API server does not create: why, what to do about it, when to try again, and what the status keeps.

The status keeps a rejection until the whole set of pods exists.
"""

import hashlib
import re
from datetime import datetime, timedelta
from enum import StrEnum

from resnext_operator.api.status import ConditionType, Phase, RejectionStatus
from resnext_operator.api.training import Training
from resnext_operator.domain.backoff import exponential_delay
from resnext_operator.domain.conditions import Conditions, keep_transitions
from resnext_operator.domain.observed import Rejection
from resnext_operator.domain.plan import Plan
from resnext_operator.domain.progress import drop_rates, summarize
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.rendering import names

RETRY_FIRST, RETRY_LAST = timedelta(seconds=1), timedelta(minutes=1)
RELEASED_FIRST, RELEASED_LAST = timedelta(seconds=20), timedelta(minutes=5)

_SCHEDULING_REASONS = (
    Reason.UNSCHEDULABLE,
    Reason.CONTAINER_NOT_STARTING,
    Reason.CLAIM_NOT_FOUND,
    Reason.VOLUME_STILL_ATTACHED,
)
"""Reported again by each try, since a rejection takes their place in the status."""

# What an admission webhook or policy may add without bound.
_MAX_MESSAGE_LENGTH = 700


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
    message, part = rejection.message, "launcher" if rejection.role == "launcher" else "workers"
    fields = _fields(rejection)
    listed = " and ".join(fields)
    match cause_of(rejection):
        case Cause.QUOTA if "must specify" in message:
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
    if "PriorityClass" in message:
        return f"create the PriorityClass, or change spec.{part}.priorityClassName"
    if "RuntimeClass" in message:
        return f"create the RuntimeClass, or change spec.{part}.runtimeClassName"
    if "being terminated" in message:
        return "the namespace is being deleted: create the training in another one"
    return "read the message; the operator tries again"


def _fields(rejection: Rejection) -> list[str]:
    """The fields of the spec that a message of a quota or a LimitRange is about."""
    message = rejection.message
    if rejection.kind == "PersistentVolumeClaim":
        return ["spec.checkpoints.template.size"]
    part = f"spec.{'launcher' if rejection.role == 'launcher' else 'workers'}"
    found: list[str] = []
    if missing := re.search(r"must specify (.*)", message, re.DOTALL):
        # Such as "limits.cpu for: launcher; requests.memory for: launcher", and "limits.cpu,limits.memory" before 1.24.
        found = [name for name in re.split(r"[;,]\s*", re.sub(r" for: [^;]*", "", missing[1])) if name]
    elif requested := re.search(r"requested: (.*?)(, used:|$)", message, re.DOTALL):
        found = [name.partition("=")[0] for name in requested[1].split(",")]
    else:
        for name, rest in re.findall(
            r"(?:maximum|minimum) (\S+) usage per \w+ is ([^\]]*?)(?=, m(?:ax|in)imum|\]|$)", message
        ):
            found.append(f"{'limits' if 'limit' in rest else 'requests'}.{name}")
        found += [f"limits.{name}" for name in re.findall(r"(\S+) max limit to request ratio per", message)]
        found += [f"limits.{name}" for name in re.findall(r"must be less than or equal to (\S+) limit", message)]
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
    before = training.status
    status = (before if launches else plan.status).copy_to_change()
    status.phase, status.start_time = status.phase or Phase.PENDING, status.start_time or now.replace(microsecond=0)
    conditions = Conditions(plan.status.conditions, training.generation, now)
    cause, reported = cause_of(rejection), rejection.message[:_MAX_MESSAGE_LENGTH]
    message = f"{rejection.kind} {rejection.name} is rejected ({rejection.code}): {reported} → {advice(rejection)}"
    events = () if launches else tuple(event for event in plan.events if event.reason not in _SCHEDULING_REASONS)
    if cause is Cause.INVALID and not before.attempts:
        conditions.set(ConditionType.PODS_INVALID, True, Reason.PODS_INVALID, message)
        conditions.set(ConditionType.FAILED, True, Reason.PODS_INVALID, message)
        status.phase, status.reason = Phase.FAILED, Reason.PODS_INVALID.value
        status.completion_time, status.conditions = now.replace(microsecond=0), conditions.all()
        drop_rates(status)
        status.summary = summarize(status)
        return Plan(status=status, events=(*events, warning(Reason.PODS_INVALID, message)))
    status.rejection = _with_rejection(training, rejection, cause, message, now)
    reason = Reason.PODS_INVALID if cause is Cause.INVALID else Reason.POD_CREATION_REJECTED
    if cause is Cause.INVALID:
        conditions.set(ConditionType.PODS_INVALID, True, reason, message)
    conditions.set(ConditionType.SCHEDULED, False, reason, message)
    if before.reason != reason or before.rejection is None or before.rejection.cause != cause:
        events += (warning(reason, message),)
    status.reason = reason.value
    # The plan was decided from the stored status, and passes through states that are not stored.
    status.conditions = keep_transitions(before.conditions, conditions.all())
    status.workers = plan.status.workers or status.workers
    status.summary = summarize(status)
    wait = status.rejection.retry_time - now
    soonest = min(wait, plan.requeue_after) if plan.requeue_after else wait
    return Plan(status=status, events=events, requeue_after=soonest)


def _with_rejection(
    training: Training, rejection: Rejection, cause: Cause, message: str, now: datetime
) -> RejectionStatus:
    """What the status keeps of a rejection, and of those before it."""
    before = training.status.rejection
    tries = (before.tries if before else 0) + 1
    return RejectionStatus(
        cause=cause.value,
        role=rejection.role,
        message=message,
        since=before.since if before else now,
        retry_time=now + _with_jitter(training, tries, RETRY_FIRST, RETRY_LAST),
        held_since=before.held_since if before else None,
        tries=tries,
        released=before.released if before else 0,
        generation=training.generation,
    )


def released(training: Training, rejection: RejectionStatus, now: datetime) -> tuple[RejectionStatus, timedelta]:
    """The rejection after its pods are deleted, and the pause before the next try."""
    times = rejection.released + 1
    wait = _with_jitter(training, times, RELEASED_FIRST, RELEASED_LAST)
    changes = {"held_since": None, "released": times, "tries": 0, "retry_time": now + wait}
    return rejection.model_copy(update=changes), wait


def _with_jitter(training: Training, times: int, first: timedelta, last: timedelta) -> timedelta:
    """A doubling pause, half to one and a half of it: different for each training, so that two that hold parts of one
    quota do not try again at the same time; and the same whenever it is computed."""
    digest = hashlib.sha256(f"{training.uid}/{times}/{first}".encode()).digest()
    share = 0.5 + int.from_bytes(digest[:4], "big") / 2**32
    return exponential_delay(first, last, times - 1) * share
