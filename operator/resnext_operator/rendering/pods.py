"""The worker pods and the launcher pod."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from resnext_operator.api.objects.pod import (
    Container,
    ContainerPort,
    ContainerProgram,
    EnvVar,
    Pod,
    PodSpec,
    ResourceRequirements,
)
from resnext_operator.api.objects.volume import Volume
from resnext_operator.api.pod_template import PodTemplate, Resources, WorkerEnvVar
from resnext_operator.api.training import Training
from resnext_operator.api.volumes import amount
from resnext_operator.rendering import names
from resnext_operator.rendering.hashing import pod_revision
from resnext_operator.rendering.metadata import owned_metadata
from resnext_operator.rendering.scheduling import affinity, tolerations, topology_spread
from resnext_operator.rendering.volumes import common_volumes, worker_volumes
from resnext_trainer.checkpoint import directory
from resnext_trainer.checkpoint.lock import TRAINING_UID
from resnext_trainer.runtime import signals

_USER = 1000
"""uid and gid of all containers; the images have this user."""

_LAUNCHER_RESOURCES = {
    "cpu": {"requests": "50m", "limits": "1"},
    "memory": {"requests": "128Mi", "limits": "512Mi"},
}
"""Requests and limits for both resources, because a ResourceQuota may require them."""


@dataclass(frozen=True)
class _RoleSpec:
    """The differences between a worker pod and a launcher pod."""

    role: Literal["worker", "launcher"]
    name: str
    labels: dict[str, str]
    template: PodTemplate
    """Pod settings of this role from the spec."""
    program: ContainerProgram
    volumes: list[Volume]
    grace_seconds: int
    user_env: Sequence[EnvVar]
    """Variables from the spec."""
    env: Sequence[EnvVar] = ()
    avoided_nodes: Sequence[str] = ()


def example_hosts(training: Training) -> list[tuple[str, str]]:
    """The workers of generation 0 with placeholder addresses from the RFC 2544 range, which no real pod has."""
    addresses = ipaddress.ip_network("198.18.0.0/15").hosts()
    workers = range(training.spec.workers.replicas)
    return [(names.worker(training.name, index, 0), str(next(addresses))) for index in workers]


def worker_pod(
    training: Training,
    index: int,
    generation: int,
    keys: str = "",
    avoided: Sequence[str] = (),
    gated: bool = False,
) -> Pod:
    """A worker pod, which runs sshd; mpirun starts the worker's ranks there.

    keys: uid of the Secret that the pod mounts.
    avoided: nodes that the pod should not run on if other nodes fit.
    gated: adds the operator's scheduling gate; a gated pod holds no GPU but counts against quotas.
    """
    workers = training.spec.workers
    volumes, mounts = worker_volumes(training, index)
    program: ContainerProgram = {
        "args": [
            "worker",
            f"--keys={names.KEYS_DIR}",
            f"--ssh-port={names.SSH_PORT}",
            f"--health-port={names.HEALTH_PORT}",
        ],
        "ports": _worker_ports(workers.ranks),
        # Every second, because the launcher is created only after the slowest worker is ready.
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 1, "failureThreshold": 2},
        "resources": _worker_resources(workers.resources),
        "volumeMounts": mounts,
    }
    labels = {names.WORKER: str(index), names.WORKER_GENERATION: str(generation)}
    if keys:
        labels[names.SSH_SECRET_UID] = keys
    pod = _pod(
        training,
        _RoleSpec(
            role="worker",
            name=names.worker(training.name, index, generation),
            labels=labels,
            template=workers,
            program=program,
            volumes=volumes,
            grace_seconds=workers.termination_grace_period_seconds,
            user_env=[_worker_variable(each) for each in workers.env],
            env=_checkpoint_env(training) if index == 0 else (),
            avoided_nodes=avoided,
        ),
    )
    if constraints := topology_spread(training, avoided):
        pod["spec"]["topologySpreadConstraints"] = constraints
    if gated:
        pod["spec"]["schedulingGates"] = [{"name": names.GATE}]
    if workers.host_network:
        # Container ports become host ports, so the scheduler places at most one worker on a node.
        pod["spec"]["hostNetwork"] = True
        pod["spec"]["dnsPolicy"] = "ClusterFirstWithHostNet"
    return pod


def _worker_variable(written: WorkerEnvVar) -> EnvVar:
    """A variable with its value, or with the Secret that contains the value."""
    if written.value_from is None:
        return {"name": written.name, "value": written.value}
    secret = written.value_from.secret_key_ref
    return {
        "name": written.name,
        "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key, "optional": secret.optional}},
    }


def _worker_ports(ranks: int) -> list[ContainerPort]:
    ports: list[ContainerPort] = [
        {"name": "ssh", "containerPort": names.SSH_PORT},
        {"name": "health", "containerPort": names.HEALTH_PORT},
    ]
    ports += [{"name": f"metrics-{rank}", "containerPort": names.METRICS_PORT + rank} for rank in range(ranks)]
    return ports


def _checkpoint_env(training: Training) -> list[EnvVar]:
    """Mount path and subPath of the checkpoint claim, and the grace period for the final checkpoint."""
    variables = {
        directory.ROOT: names.CHECKPOINTS_DIR,
        # The kubelet expands $(NAME) and unescapes $$.
        directory.SUB_PATH: training.spec.checkpoints.sub_path.replace("$", "$$"),
        signals.GRACE: str(training.spec.workers.termination_grace_period_seconds),
    }
    return [{"name": name, "value": value} for name, value in variables.items() if value]


def launcher_pod(training: Training, attempt: int, workers: Sequence[tuple[str, str]]) -> Pod:
    """A launcher pod, which runs mpirun over the workers, given as (pod name, address) in rank order.

    The addresses are host aliases in the pod's spec, so they are never stale. A headless Service would delay the
    start, because DNS resolvers cache a negative answer for 30 s.
    """
    ranks = training.spec.workers.ranks
    volumes, mounts = common_volumes(training)
    program: ContainerProgram = {
        "args": [
            "launch",
            f"--config={names.CONFIG_DIR}/{names.CONFIG_FILE}",
            f"--attempt={attempt}",
            f"--world-size={len(workers) * ranks}",
            f"--keys={names.KEYS_DIR}",
            f"--ssh-port={names.SSH_PORT}",
            f"--metrics-port={names.METRICS_PORT}",
            *(f"--host={name}:{ranks}" for name, _ in workers),
        ],
        "resources": _launcher_resources(training.spec.launcher.resources),
        "volumeMounts": mounts,
    }
    pod = _pod(
        training,
        _RoleSpec(
            role="launcher",
            name=names.launcher(training.name, attempt),
            labels={names.ATTEMPT: str(attempt), names.WORKERS: str(len(workers))},
            template=training.spec.launcher,
            program=program,
            volumes=volumes,
            user_env=[{"name": each.name, "value": each.value} for each in training.spec.launcher.env],
            # The launcher waits for the ranks, which may use their whole grace period.
            grace_seconds=training.spec.workers.termination_grace_period_seconds + 10,
        ),
    )
    pod["spec"]["hostAliases"] = [{"ip": address, "hostnames": [name]} for name, address in workers]
    return pod


def _worker_resources(written: Resources) -> ResourceRequirements:
    resources: ResourceRequirements = {}
    if written.limits:
        resources["limits"] = dict(written.limits)
    if written.requests:
        resources["requests"] = dict(written.requests)
    return resources


def _launcher_resources(written: Resources) -> ResourceRequirements:
    """The user's requests and limits, completed with defaults.

    If only a limit is set, the request defaults to it. If only a request is set, the limit is the larger of the
    request and the default limit.
    """
    limits, requests = dict(written.limits), dict(written.requests)
    for name, default in _LAUNCHER_RESOURCES.items():
        if name not in limits:
            request = requests.setdefault(name, default["requests"])
            limits[name] = max(default["limits"], request, key=amount)
    return {"limits": limits, "requests": requests} if requests else {"limits": limits}


def _pod(training: Training, of_role: _RoleSpec) -> Pod:
    """A pod that meets the `restricted` Pod Security Standard, with a read-only root and no service account token."""
    template, metadata = of_role.template, owned_metadata(training, of_role.name)
    own = {**names.labels(training.name, of_role.role), names.REVISION: pod_revision(training), **of_role.labels}
    metadata["labels"] = {**template.labels, **own}
    if template.annotations:
        metadata["annotations"] = dict(template.annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod_spec(training, of_role)}


def _pod_spec(training: Training, of_role: _RoleSpec) -> PodSpec:
    template = of_role.template
    spec: PodSpec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            # Otherwise the kubelet would change the owner of every file of the dataset at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": tolerations(template),
        "containers": [_container(training, of_role)],
        "volumes": of_role.volumes,
    }
    if wanted := affinity(training, template, of_role.avoided_nodes):
        spec["affinity"] = wanted
    if training.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": each.name} for each in training.spec.image_pull_secrets]
    if template.node_selector:
        spec["nodeSelector"] = template.node_selector
    if template.priority_class_name:
        spec["priorityClassName"] = template.priority_class_name
    if template.scheduler_name:
        spec["schedulerName"] = template.scheduler_name
    if template.runtime_class_name:
        spec["runtimeClassName"] = template.runtime_class_name
    spec["terminationGracePeriodSeconds"] = of_role.grace_seconds
    return spec


def _container(training: Training, of_role: _RoleSpec) -> Container:
    container: Container = {
        "name": of_role.role,
        "image": training.image,
        "env": [
            *_hide_gpus_env(training, of_role.role),
            *of_role.env,
            *of_role.user_env,
            # Last, so that the user's env cannot override it: the lock of the checkpoint directory records this uid.
            {"name": TRAINING_UID, "value": training.uid},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # If a container fails without a message, the pod's status then has the last lines of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **of_role.program,
    }
    if training.spec.image_pull_policy:
        container["imagePullPolicy"] = training.spec.image_pull_policy
    return container


def _hide_gpus_env(training: Training, role: str) -> list[EnvVar]:
    """Hides GPUs from containers that request none; they see all GPUs if NVIDIA's runtime is the node's default."""
    holds = role == "worker" and training.spec.workers.gpus
    return [] if holds else [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
