"""Objects that the API server rejects: cause, suggested action, time of the retry, and the record in the status.

The status keeps a rejection until all pods exist.
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
"""Reasons whose events would be repeated by each retry, because a rejection replaces them in the status."""

# The messages of admission webhooks and policies have no limit.
_MAX_MESSAGE_LENGTH = 700


class Cause(StrEnum):
    """Why the API server rejects an object."""

    INVALID = "Invalid"
    QUOTA = "Quota"
    LIMIT_RANGE = "LimitRange"
    POD_SECURITY = "PodSecurity"
    WEBHOOK = "Webhook"
    POLICY = "Policy"
    PERMISSION = "Permission"
    OTHER = "Other"


_SIGNS = (
    (Cause.QUOTA, r"exceeded quota:|failed quota:|insufficient quota|unknown for quota"),
    (Cause.POD_SECURITY, r"violates PodSecurity"),
    (Cause.WEBHOOK, r"admission webhook "),
    (Cause.POLICY, r"ValidatingAdmissionPolicy "),
    # Requests in the spec do not exceed its limits, so such a limit is the default of a LimitRange.
    (
        Cause.LIMIT_RANGE,
        r"usage per (Container|Pod|PersistentVolumeClaim)|limit to request ratio per "
        r"|must be less than or equal to \S+ limit",
    ),
    (Cause.PERMISSION, r'User "[^"]*" cannot '),
)
"""Patterns of messages by cause; the first match wins."""


def cause_of(rejection: Rejection) -> Cause:
    """Why an object was rejected. Webhooks and policies may also respond with 400 or 422, and a retry may succeed."""
    found = next((cause for cause, sign in _SIGNS if re.search(sign, rejection.message)), None)
    if found is not None:
        return found
    return Cause.INVALID if rejection.code in (400, 422) else Cause.OTHER


def advice(rejection: Rejection) -> str:
    """Suggested action, with the name of the field if the message contains it."""
    message, part = rejection.message, "launcher" if rejection.role == "launcher" else "workers"
    fields = _fields(rejection)
    listed = " and ".join(fields)
    match cause_of(rejection):
        case Cause.QUOTA if "must specify" in message:
            return f"set {listed}" if fields else f"set the missing limits in spec.{part}.resources"
        case Cause.QUOTA:
            return (
                f"raise the namespace's ResourceQuota, or lower {' or '.join(fields) or 'the requests of the training'}"
            )
        case Cause.LIMIT_RANGE:
            return f"set {listed or f'spec.{part}.resources'} to a value that the namespace's LimitRange allows"
        case Cause.POD_SECURITY:
            return (
                "remove hostPath volumes and hostNetwork from spec.workers, "
                "or use a namespace whose Pod Security level allows them"
            )
        case Cause.WEBHOOK:
            return "change the field that the webhook names, or ask the owner of the webhook"
        case Cause.POLICY:
            return "change the field that the policy names, or ask the owner of the policy"
        case Cause.PERMISSION:
            return "grant this permission to the operator's service account, for example by upgrading the Helm chart"
        case Cause.INVALID:
            return "correct the field that the message names"
    if "PriorityClass" in message:
        return f"create the PriorityClass, or change spec.{part}.priorityClassName"
    if "RuntimeClass" in message:
        return f"create the RuntimeClass, or change spec.{part}.runtimeClassName"
    if "being terminated" in message:
        return "the namespace is being deleted: create the training in another namespace"
    return "see the message; the operator retries"


def _fields(rejection: Rejection) -> list[str]:
    """The fields of the spec to which the message of a quota or LimitRange refers."""
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
    """The field of the spec that sets a resource, from its name in a quota."""
    kind, _, resource = name.partition(".")
    if kind in ("limits", "requests") and resource:
        # Extended resources are only set in limits.
        return f"{part}.resources.{'limits' if '/' in resource else kind}.{resource}"
    if name in ("cpu", "memory", "ephemeral-storage"):
        return f"{part}.resources.requests.{name}"
    if name in ("pods", "count/pods"):
        return "spec.workers.replicas" if role == "worker" else ""
    return ""


def plan_after_api_rejection(training: Training, plan: Plan, rejection: Rejection, now: datetime) -> Plan:
    """The plan after the API server has rejected an object of `plan`: only status, events and requeue.

    The rest of the status is recorded as well, so that deadlines are not extended by retries. The exception is a
    launcher: an attempt that was not created must not be recorded, or the next decision would consider it lost.
    """
    launches = any(each["metadata"]["labels"].get(names.ROLE) == "launcher" for each in plan.create)
    before = training.status
    status = (before if launches else plan.status).copy_to_change()
    status.phase, status.start_time = status.phase or Phase.PENDING, status.start_time or now.replace(microsecond=0)
    conditions = Conditions(plan.status.conditions, training.generation, now)
    cause, reported = cause_of(rejection), rejection.message[:_MAX_MESSAGE_LENGTH]
    message = f"{rejection.kind} {rejection.name} was rejected ({rejection.code}): {reported} → {advice(rejection)}"
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
    # The plan starts from the stored status; its intermediate states are not stored.
    status.conditions = keep_transitions(before.conditions, conditions.all())
    status.workers = plan.status.workers or status.workers
    status.summary = summarize(status)
    wait = status.rejection.retry_time - now
    soonest = min(wait, plan.requeue_after) if plan.requeue_after else wait
    return Plan(status=status, events=events, requeue_after=soonest)


def _with_rejection(
    training: Training, rejection: Rejection, cause: Cause, message: str, now: datetime
) -> RejectionStatus:
    """The record of a rejection in the status, with the counters of the previous ones."""
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
    """The rejection after its pods are deleted, and the delay before the next try."""
    times = rejection.released + 1
    wait = _with_jitter(training, times, RELEASED_FIRST, RELEASED_LAST)
    changes = {"held_since": None, "released": times, "tries": 0, "retry_time": now + wait}
    return rejection.model_copy(update=changes), wait


def _with_jitter(training: Training, times: int, first: timedelta, last: timedelta) -> timedelta:
    """Exponential backoff with a factor of 0.5 to 1.5. It differs between trainings, so that trainings that compete for
    a quota do not retry at the same time. It is deterministic: a function of the UID and the number of tries."""
    digest = hashlib.sha256(f"{training.uid}/{times}/{first}".encode()).digest()
    share = 0.5 + int.from_bytes(digest[:4], "big") / 2**32
    return exponential_delay(first, last, times - 1) * share
