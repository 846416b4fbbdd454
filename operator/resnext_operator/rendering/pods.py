"""Pods of workers and launcher."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from resnext_operator.api.objects import Manifest
from resnext_operator.api.pod_template import PodTemplate, Resources
from resnext_operator.api.scheduling import Affinity, Spread
from resnext_operator.api.training import Training
from resnext_operator.api.volumes import amount
from resnext_operator.rendering import names
from resnext_operator.rendering.claims import checkpoint_claim_name
from resnext_operator.rendering.hashing import pod_revision
from resnext_operator.rendering.metadata import owned_object
from resnext_trainer.checkpoint import directory
from resnext_trainer.checkpoint.lock import TRAINING_UID
from resnext_trainer.runtime import signals

_USER = 1000
"""uid and gid of everything in the pods; the images have this user."""

# A lost node is noticed after 40 s by default; five minutes more of waiting would be five minutes without training.
_UNREACHABLE_SECONDS = 30

_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

_LAUNCHER_RESOURCES = {
    "cpu": {"requests": "50m", "limits": "1"},
    "memory": {"requests": "128Mi", "limits": "512Mi"},
}
"""Complete, because a namespace's quota may require a limit and a request of each."""


def example_hosts(training: Training) -> list[tuple[str, str]]:
    """The first workers with addresses that no real pod has: those of RFC 2544."""
    addresses = ipaddress.ip_network("198.18.0.0/15").hosts()
    workers = range(training.spec.workers.replicas)
    return [(names.worker(training.name, index, 0), str(next(addresses))) for index in workers]


def worker_pod(
    training: Training,
    index: int,
    incarnation: int,
    keys: str = "",
    avoided: Sequence[str] = (),
    gated: bool = False,
) -> Manifest:
    """A pod whose first process runs sshd; mpirun starts its ranks there.

    keys: uid of the Secret that it mounts. avoided: nodes that it keeps away from if there are others. gated: the
    scheduler leaves it alone until the operator has removed its gate, so that it holds no GPU but counts in quotas.
    """
    workers = training.spec.workers
    volumes, mounts = _common_volumes(training)
    volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(workers.shared_memory)}})
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if dataset := training.spec.dataset:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": dataset.claim_name, "readOnly": True}})
        mounts.append(_mount("data", names.DATA_DIR, dataset.sub_path) | {"readOnly": True})
    if index == 0:
        claimed = {"claimName": checkpoint_claim_name(training)}
        volumes.append({"name": "checkpoints", "persistentVolumeClaim": claimed})
        # The whole claim: what the kubelet creates for a subPath belongs to root, where fsGroup does not reach.
        mounts.append(_mount("checkpoints", names.CHECKPOINTS_DIR, ""))
    of_user = _user_volumes(training)
    volumes += of_user[0]
    mounts += of_user[1]
    container = {
        "args": [
            "worker",
            f"--keys={names.KEYS_DIR}",
            f"--ssh-port={names.SSH_PORT}",
            f"--health-port={names.HEALTH_PORT}",
        ],
        "ports": [
            {"name": "ssh", "containerPort": names.SSH_PORT},
            {"name": "health", "containerPort": names.HEALTH_PORT},
            *({"name": f"metrics-{rank}", "containerPort": names.METRICS_PORT + rank} for rank in range(workers.ranks)),
        ],
        # Each second: a training waits for its slowest worker.
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 1, "failureThreshold": 2},
        "resources": workers.resources.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "volumeMounts": mounts,
    }
    pod = _pod(
        training,
        names.worker(training.name, index, incarnation),
        "worker",
        workers,
        container,
        volumes,
        {
            names.WORKER: str(index),
            names.INCARNATION: str(incarnation),
            **({names.SSH_SECRET_UID: keys} if keys else {}),
        },
        avoided,
        _checkpoint_env(training) if index == 0 else (),
    )
    pod["spec"] |= {
        "terminationGracePeriodSeconds": workers.termination_grace_period_seconds,
        **_topology_spread(training, avoided),
        **({"schedulingGates": [{"name": names.GATE}]} if gated else {}),
        # The containers' ports become the node's: the scheduler puts no second worker there.
        **({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if workers.host_network else {}),
    }
    return pod


def _checkpoint_env(training: Training) -> list[Manifest]:
    """Where the claim is in the pod, what is used of it, and how long the last save may take."""
    variables = {
        directory.ROOT: names.CHECKPOINTS_DIR,
        # The kubelet would expand $(NAME), and makes $ of $$.
        directory.SUB_PATH: training.spec.checkpoints.sub_path.replace("$", "$$"),
        signals.GRACE: str(training.spec.workers.termination_grace_period_seconds),
    }
    return [{"name": name, "value": value} for name, value in variables.items() if value]


def _user_volumes(training: Training) -> tuple[list[Manifest], list[Manifest]]:
    """Under names of their own, so that they never meet the operator's."""
    volumes = {each.name: each for each in training.spec.workers.volumes}
    mounts = [
        _mount(f"user-{each.name}", each.mount_path, each.sub_path)
        # Whoever may write to a folder of the node may leave a link there that leads out of it.
        | ({"readOnly": True} if each.read_only or volumes[each.name].host_path else {})
        for each in training.spec.workers.volume_mounts
    ]
    return [{"name": f"user-{name}", **each.source} for name, each in volumes.items()], mounts


def _topology_spread(training: Training, avoided: Sequence[str]) -> Manifest:
    """What the user wants; else even, because one node's loss should cost as few workers as it can.

    Not where a node is avoided: evenness would draw workers to the very node that has none left.
    """
    wanted = training.spec.workers.topology_spread_constraints
    if wanted is None:
        by_node = Spread(max_skew=1, topology_key="kubernetes.io/hostname", when_unsatisfiable="ScheduleAnyway")
        wanted = () if avoided else (by_node,)
    return {"topologySpreadConstraints": [_with_default_selector(training, each) for each in wanted]} if wanted else {}


def _affinity(training: Training, placement: PodTemplate, avoided: Sequence[str]) -> Manifest:
    """What the user wants; and other nodes than those avoided, if there are any.

    Only preferred: a fault of the training's own must end in its backoffLimit, not in Pending.
    """
    wanted = _with_default_selector(training, placement.affinity or Affinity())
    if avoided:
        others = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in avoided]}
        preferred = wanted.setdefault("nodeAffinity", {}).setdefault(_PREFERRED, [])
        preferred.append({"weight": 100, "preference": others})
    return wanted


def _with_default_selector(training: Training, constraint: Affinity | Spread) -> Manifest:
    """As it stands in a pod, with the selector of the training's workers where none is given."""
    own = {"matchLabels": {names.TRAINING: training.name, names.ROLE: "worker"}}

    def filled(part: Any) -> Any:
        if isinstance(part, list):
            return [filled(each) for each in part]
        if not isinstance(part, dict):
            return part
        whole = {key: filled(value) for key, value in part.items()}
        return whole | {"labelSelector": whole.get("labelSelector", own)} if "topologyKey" in whole else whole

    filled_in: Manifest = filled(constraint.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    return filled_in


def launcher_pod(training: Training, attempt: int, workers: Sequence[tuple[str, str]]) -> Manifest:
    """The pod that runs mpirun over the workers, given as (pod, address) in the order of their ranks.

    The hosts and their addresses are part of its own spec: never stale, and no Service and no resolver, which keeps a
    miss for 30 s, stands between a worker that is ready and its launcher.
    """
    ranks = training.spec.workers.ranks
    volumes, mounts = _common_volumes(training)
    container = {
        "args": [
            "launch",
            f"--config={names.CONFIG_DIR}/{names.CONFIG_FILE}",
            f"--attempt={attempt}",
            f"--world={len(workers) * ranks}",
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
        names.launcher(training.name, attempt),
        "launcher",
        training.spec.launcher,
        container,
        volumes,
        {names.ATTEMPT: str(attempt), names.WORKERS: str(len(workers))},
    )
    # The launcher waits for the ranks, and they may need all of theirs.
    grace = training.spec.workers.termination_grace_period_seconds + 10
    aliases = [{"ip": address, "hostnames": [name]} for name, address in workers]
    pod["spec"] |= {"terminationGracePeriodSeconds": grace, "hostAliases": aliases}
    return pod


def _launcher_resources(written: Resources) -> Manifest:
    """What the user wrote, and the defaults of what the user left out.

    A limit alone is its request as well; a request alone gets the default limit, or its own amount if that is more.
    """
    limits, requests = dict(written.limits), dict(written.requests)
    for name, default in _LAUNCHER_RESOURCES.items():
        if name not in limits:
            asked = requests.setdefault(name, default["requests"])
            limits[name] = max(default["limits"], asked, key=amount)
    return {"limits": limits, "requests": requests} if requests else {"limits": limits}


def _common_volumes(training: Training) -> tuple[list[Manifest], list[Manifest]]:
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": names.config_map_name(training.name)}},
        # 0440 with the pods' group: ssh refuses keys that others can read.
        {"name": "keys", "secret": {"secretName": names.secret_name(training.name), "defaultMode": 0o440}},
        *({"name": name, "emptyDir": {}} for name in ("run", "tmp", "home")),
    ]
    mounts: list[Manifest] = [
        {"name": "config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        {"name": "keys", "mountPath": names.KEYS_DIR, "readOnly": True},
        {"name": "run", "mountPath": names.RUN_DIR},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "home", "mountPath": "/home/resnext"},
    ]
    return volumes, mounts


def _mount(name: str, path: str, sub_path: str) -> Manifest:
    return {"name": name, "mountPath": path, **({"subPath": sub_path} if sub_path else {})}


def _pod(
    training: Training,
    name: str,
    role: str,
    placement: PodTemplate,
    container: Manifest,
    volumes: list[Manifest],
    labels: dict[str, str],
    avoided: Sequence[str] = (),
    environment: Sequence[Manifest] = (),
) -> Manifest:
    """A pod as Pod Security's `restricted` wants it, with a read-only root and no token."""
    spec: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            # Not a walk through all of ImageNet at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            *(each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in placement.tolerations),
            *(
                {
                    "key": f"node.kubernetes.io/{taint}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": _UNREACHABLE_SECONDS,
                }
                for taint in ("not-ready", "unreachable")
            ),
        ],
        "containers": [
            {
                "name": role,
                "image": training.image,
                "env": [
                    *_hide_gpus_env(training, role),
                    *environment,
                    *(each.model_dump(mode="json", by_alias=True) for each in placement.env),
                    # Last, so that it holds: the checkpoints' lock names it.
                    {"name": TRAINING_UID, "value": training.uid},
                ],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                # The last lines of a container that ends without a message are in the pod's status then.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                **container,
            }
        ],
        "volumes": volumes,
    }
    if training.spec.image_pull_policy:
        spec["containers"][0]["imagePullPolicy"] = training.spec.image_pull_policy
    optional = {
        "affinity": _affinity(training, placement, avoided),
        "imagePullSecrets": [{"name": each.name} for each in training.spec.image_pull_secrets],
        "nodeSelector": placement.node_selector,
        "priorityClassName": placement.priority_class_name,
        "schedulerName": placement.scheduler_name,
        "runtimeClassName": placement.runtime_class_name,
    }
    spec |= {key: value for key, value in optional.items() if value}
    pod = owned_object(training, "v1", "Pod", name, {"spec": spec})
    own = {**names.labels(training.name, role), names.REVISION: pod_revision(training), **labels}
    pod["metadata"]["labels"] = {**placement.labels, **own}
    if placement.annotations:
        pod["metadata"]["annotations"] = dict(placement.annotations)
    return pod


def _hide_gpus_env(training: Training, role: str) -> list[Manifest]:
    """Where NVIDIA's runtime is the default one, a container that asks for no GPU would see them all."""
    holds = role == "worker" and training.spec.workers.gpus
    return [] if holds else [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
