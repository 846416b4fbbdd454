"""Checks of a training before its pods are created, and the plan for a name that another owner uses."""

import posixpath
from datetime import datetime

from resnext_operator.api.status import ConditionType, Phase, Status
from resnext_operator.api.training import Training
from resnext_operator.domain.conditions import Conditions
from resnext_operator.domain.observed import ClusterState, ObservedPod
from resnext_operator.domain.plan import ObjectRef, Plan
from resnext_operator.domain.progress import drop_rates, summarize
from resnext_operator.domain.reasons import Reason, warning
from resnext_operator.rendering import names

Refusal = tuple[Reason, str]


def check_operator_policy(training: Training) -> Refusal | None:
    """Reject hostPath volumes and hostNetwork that the settings of this operator do not allow."""
    workers, site = training.spec.workers, training.site
    if workers.host_network and not site.host_network:
        return Reason.FORBIDDEN_BY_OPERATOR, (
            "spec.workers.hostNetwork: not allowed by this operator: remove it, or set `allow.hostNetwork` in the "
            "Helm chart"
        )
    for index, volume in enumerate(workers.volumes):
        if volume.host_path and not _within(volume.host_path.path, site.host_paths):
            allowed = (
                f"only allows paths in {' and '.join(site.host_paths)}" if site.host_paths else "allows no hostPath"
            )
            return Reason.FORBIDDEN_BY_OPERATOR, (
                f"spec.workers.volumes[{index}].hostPath.path: {volume.host_path.path}, but this operator {allowed}: "
                "use a claim or set `allow.hostPaths` in the Helm chart"
            )
    return None


def _within(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a path is one of the directories or below one. A path with `..` never is."""
    parts = posixpath.normpath(path).split("/")
    roots = [posixpath.normpath(folder).rstrip("/").split("/") for folder in folders]
    return ".." not in path.split("/") and any(parts[: len(root)] == root for root in roots)


def check_claim_access(training: Training, state: ClusterState, replicas: int) -> Refusal | None:
    """Reject claims that several nodes cannot mount, if there is more than one worker; missing claims are ignored."""
    for field, claim in training.spec.shared_claims.items():
        modes = state.access_modes.get(claim, ())
        if modes and replicas > 1 and not any(mode.endswith("Many") for mode in modes):
            return Reason.VOLUME_NOT_SHAREABLE, (
                f"{field}: claim {claim} is {' and '.join(modes)}, which cannot be mounted on several nodes: use a "
                f"ReadOnlyMany or ReadWriteMany claim for {replicas} workers"
            )
    return None


def check_claim_owner(training: Training, state: ClusterState) -> Refusal | None:
    """Reject an existing claim NAME-checkpoints that the operator did not create for this training."""
    name = names.claim_name(training.name)
    if training.spec.checkpoints.claim_name is not None or name not in state.foreign_claims:
        return None
    return Reason.CLAIM_NOT_OWNED, (
        f"spec.checkpoints: claim {name} already exists and was not created for training {training.name}: "
        f"set checkpoints.claimName to {name} to use it, or choose another name for the training"
    )


def plan_for_name_conflict(before: Status, state: ClusterState, generation: int, message: str, now: datetime) -> Plan:
    """The plan for a training that fails because an object of another owner has the name of one of its objects.

    Running pods are deleted, and save a checkpoint first. The status of a finished training does not change.

    before: the current status.
    """
    pods: list[ObservedPod] = [*state.workers, *(each for each in state.launchers if not each.deleted)]
    running = tuple(ObjectRef("Pod", pod.name, pod.uid) for pod in pods if not (pod.deleting or pod.finished))
    if before.phase and before.phase.ended:
        return Plan(status=before, delete=running)
    conditions = Conditions(before.conditions, generation, now)
    conditions.set(ConditionType.ACCEPTED, False, Reason.INVALID, message)
    conditions.set(ConditionType.FAILED, True, Reason.INVALID, message)
    if conditions.is_true(ConditionType.RUNNING):
        conditions.set(ConditionType.RUNNING, False, Reason.INVALID, message)
    status = before.copy_to_change()
    status.phase, status.reason = Phase.FAILED, Reason.INVALID.value
    status.completion_time = now.replace(microsecond=0)
    status.observed_generation = generation
    status.conditions = conditions.all()
    drop_rates(status)
    status.summary = summarize(status)
    return Plan(status=status, delete=running, events=(warning(Reason.INVALID, message),))
