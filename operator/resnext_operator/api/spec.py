"""The spec of a ResNeXtTraining: the desired state.

The CRD's schema is generated from the models below; `kubectl explain` prints the docstring under a field.
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from resnext_operator.api.pod_template import GPU, MAX_INT32, PodTemplate, WorkerEnvVar
from resnext_operator.api.scheduling import Spread
from resnext_operator.api.volumes import (
    NonEmptyStr,
    ObjectName,
    Quantity,
    SameNamespace,
    Volume,
    VolumeMount,
    Within,
    amount,
)
from resnext_trainer.config.models import Training as TrainingConfig
from resnext_trainer.config.rules import Config, Rule

Seconds = Annotated[int, Field(ge=1, le=MAX_INT32)]


class Workers(PodTemplate):
    """Worker pods. Each runs `slots` ranks; each rank uses one GPU."""

    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """Number of worker pods. If it changes during training, the training saves a checkpoint and resumes with the new
    number."""

    topology_spread_constraints: Annotated[tuple[Spread, ...], Field(max_length=8)] | None = None
    """How the workers spread across topology domains. If unset, the scheduler spreads them across nodes (best effort).
    `[]` disables spreading."""

    env: Annotated[tuple[WorkerEnvVar, ...], Field(max_length=64)] = ()
    """Environment variables to set in the container. The ranks inherit them."""

    slots: Annotated[int, Field(ge=1, le=16)] | None = None
    """Number of ranks per worker. If unset, one rank for each GPU of the worker, or one rank if it has no
    GPU."""

    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm. Its contents count toward the memory limit of the container."""

    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Duration in seconds the pod needs to terminate gracefully: to finish a step and save a checkpoint."""

    volumes: Annotated[tuple[Volume, ...], Field(max_length=16)] = ()
    """Additional volumes that can be mounted by the workers."""

    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=16)] = ()
    """Volumes to mount into the filesystem of the worker container."""

    host_network: bool = False
    """Use the host's network namespace. The operator must allow it (`allow.hostNetwork` in the Helm chart). At
    most one worker runs per node, and NetworkPolicies do not apply to the pods."""

    rules = (
        *PodTemplate.rules,
        Rule(
            f"!(has(self.resources) && has(self.resources.limits) && '{GPU}' in self.resources.limits) "
            f"|| string(self.resources.limits['{GPU}']).matches('^[1-9][0-9]*$')",
            lambda it: re.fullmatch("[1-9][0-9]*", str(it.resources.limits.get(GPU, 1))) is not None,
            "resources.limits",
            f"{GPU} must be a whole number of at least 1: correct it or remove it",
        ),
        Rule(
            "!(has(self.slots) && has(self.resources) && has(self.resources.limits) "
            f"&& '{GPU}' in self.resources.limits) || string(self.slots) == string(self.resources.limits['{GPU}'])",
            lambda it: it.slots is None or not it.gpus or it.slots == it.gpus,
            "slots",
            f"each rank needs its own GPU: set slots to the limit of {GPU} or remove it",
        ),
        Rule(
            "!has(self.volumes) || self.volumes.all(it, self.volumes.exists_one(other, other.name == it.name))",
            lambda it: len({volume.name for volume in it.volumes}) == len(it.volumes),
            "volumes",
            "two volumes have the same name: rename one",
        ),
        Rule(
            "!has(self.volumeMounts) "
            "|| self.volumeMounts.all(it, has(self.volumes) && self.volumes.exists(volume, volume.name == it.name))",
            lambda it: {mount.name for mount in it.volume_mounts} <= {volume.name for volume in it.volumes},
            "volumeMounts",
            "each mount must name a volume: add the volume to volumes",
        ),
        Rule(
            "!has(self.volumeMounts) || self.volumeMounts.all(it, "
            "self.volumeMounts.exists_one(other, other.mountPath == it.mountPath))",
            lambda it: len({mount.mount_path for mount in it.volume_mounts}) == len(it.volume_mounts),
            "volumeMounts",
            "two mounts have the same mountPath: change one",
        ),
        Rule(
            "!has(self.topologySpreadConstraints) || self.topologySpreadConstraints.all(it, "
            "self.topologySpreadConstraints.exists_one(other, other.topologyKey == it.topologyKey "
            "&& other.whenUnsatisfiable == it.whenUnsatisfiable))",
            lambda it: len({(each.topology_key, each.when_unsatisfiable) for each in it.spreads}) == len(it.spreads),
            "topologySpreadConstraints",
            "two constraints have the same topologyKey and whenUnsatisfiable: remove one",
        ),
        Rule(
            "!has(self.sharedMemory) || quantity(string(self.sharedMemory)).compareTo(quantity('0')) > 0",
            lambda it: amount(it.shared_memory) > 0,
            "sharedMemory",
            "must be greater than 0: increase it or remove it",
        ),
    )

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """The constraints that the user specified."""
        return self.topology_spread_constraints or ()

    @property
    def memory_limit(self) -> str:
        """Memory limit of each worker, as the user wrote it; empty without a limit."""
        return str(self.resources.limits.get("memory", ""))

    @property
    def gpus(self) -> int:
        """Number of GPUs per worker."""
        return int(self.resources.limits.get(GPU, 0))

    @property
    def ranks(self) -> int:
        """Number of ranks per worker."""
        return self.slots or self.gpus or 1


_GPU_OF_LAUNCHER = " || ".join(
    f"(has(self.resources) && has(self.resources.{kind}) && '{GPU}' in self.resources.{kind})"
    for kind in ("limits", "requests")
)


class Launcher(PodTemplate):
    """Launcher pod. It runs mpirun and uses no GPU."""

    rules = (
        Rule(
            f"!({_GPU_OF_LAUNCHER})",
            lambda it: GPU not in it.resources.limits and GPU not in it.resources.requests,
            "resources",
            f"the launcher uses no GPU: request {GPU} in workers.resources.limits",
        ),
        *PodTemplate.rules,
    )


class Dataset(Config):
    """Volume with the images."""

    claim_name: ObjectName
    """Name of a PersistentVolumeClaim in the same namespace, mounted read-only at /data in every worker. With more than
    one worker its access mode must be ReadOnlyMany or ReadWriteMany."""

    sub_path: Within = ""
    """Path within the volume to mount. If unset, the root of the volume is mounted."""


class ClaimTemplate(Config):
    """PersistentVolumeClaim that the operator creates. It is kept when the training is deleted."""

    storage_class_name: ObjectName | None = None
    """Name of the StorageClass required by the claim. If unset, the cluster's default StorageClass is used."""

    size: Quantity = "10Gi"
    """Storage request of the claim."""

    rules = (
        Rule(
            "!has(self.size) || quantity(string(self.size)).compareTo(quantity('0')) > 0",
            lambda it: amount(it.size) > 0,
            "size",
            "must be greater than 0: increase it or remove it",
        ),
    )


_CONTROL = r"[\x00-\x1f\x7f]"  # valid in RE2 and in Python


def _escapes_directory(path: str) -> bool:
    return "/../" in f"/{path}/"


class Checkpoints(Config):
    """Volume for checkpoints. Only worker 0 mounts it, at /checkpoints, so ReadWriteOnce is sufficient."""

    claim_name: ObjectName | None = None
    """Name of an existing PersistentVolumeClaim in the same namespace."""

    template: ClaimTemplate | None = None
    """PersistentVolumeClaim that the operator creates, named NAME-checkpoints. It is kept when the training is
    deleted."""

    sub_path: Annotated[str, Field(max_length=512)] = ""
    """Path within the volume that is used as /checkpoints. If unset, the root of the volume is used. Worker 0
    creates the directory if it does not exist."""

    rules = (
        Rule(
            "!has(self.subPath) || !(self.subPath.startsWith('/') || ('/' + self.subPath + '/').contains('/../') "
            f"|| self.subPath.matches(r'{_CONTROL}'))",
            lambda it: (
                not (it.sub_path.startswith("/") or _escapes_directory(it.sub_path) or re.search(_CONTROL, it.sub_path))
            ),
            "subPath",
            "must be a relative path without .. or control characters",
        ),
        Rule(
            "!(has(self.claimName) && has(self.template))",
            lambda it: it.claim_name is None or it.template is None,
            "template",
            "claimName and template are mutually exclusive: remove one of them",
        ),
    )


class RunPolicy(Config):
    """Retries, deadlines and cleanup of the training."""

    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 6
    """Number of retries before the training is marked as failed. Disruptions (eviction, preemption, node loss) do not
    count."""

    active_deadline_seconds: Seconds | None = None
    """Duration in seconds relative to status.startTime that the training may be active before the operator terminates
    it: the training saves a checkpoint and fails. Suspending stops the timer, and resuming resets it. If unset,
    the duration is unlimited."""

    pending_deadline_seconds: Seconds | None = None
    """Duration in seconds that the pods may take to start (quota, nodes, GPUs, image) before the training fails. If
    unset, the duration is unlimited."""

    admission_timeout_seconds: Seconds = 60
    """Duration in seconds that the pods of the training wait while the API server rejects some of them (for example
    because of a quota). The operator then deletes the pods and retries with backoff. Unschedulable pods are not
    deleted."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    """Limits the lifetime of a training that has finished. After this time in seconds the operator deletes the training
    and its pods, but not its checkpoints. If unset, the training is not deleted automatically."""

    clean_pod_policy: Literal["Running", "All", "None"] = "Running"
    """Which pods the operator deletes when the training has finished: Running deletes pods that are still running, All
    deletes all pods, None deletes no pods."""

    avoid_nodes_after: Annotated[int, Field(ge=0, le=10)] = 2
    """Number of failures on a node, within the last ten attempts, after which new workers prefer other nodes. One GPU
    failure is sufficient. 0 disables this."""

    stall_timeout_multiple: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    """The training is Stalled if it completes no step for this multiple of the median step time, and for at least 60 s.
    An evaluation counts as time without a step."""

    stall_deadline_seconds: Seconds = 900
    """Duration in seconds that the training may be Stalled before the operator ends the attempt as hung and starts
    another one."""


def _requests_gpus(it: "Spec") -> bool:
    return it.workers.gpus > 0


CHECKPOINTS = "/checkpoints"
"""Mount path of the checkpoint volume in worker 0."""

_GPUS = f"has(self.workers) && has(self.workers.resources) && has(self.workers.resources.limits) && '{GPU}' in "
_GPUS += "self.workers.resources.limits"
_DEVICE = "has(self.training.device) && self.training.device"


class Spec(Config):
    """Specification of the training."""

    training: TrainingConfig
    """Configuration of the trainer. Immutable."""

    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9\[][-A-Za-z0-9._:/@+\[\]]*$", max_length=512)] | None = None
    """Container image of the trainer. If unset, the default trainer image of the operator is used."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """Image pull policy. One of Always, Never, IfNotPresent. If unset, Always is used for the tag :latest, and
    IfNotPresent otherwise."""

    image_pull_secrets: Annotated[tuple[SameNamespace, ...], Field(max_length=8)] = ()
    """References to Secrets in the same namespace to use for pulling the image."""

    workers: Workers = Workers()
    """Worker pods."""

    launcher: Launcher = Launcher()
    """Launcher pod, which runs mpirun."""

    dataset: Dataset | None = None
    """Volume with the images. Not required for synthetic data."""

    checkpoints: Checkpoints = Checkpoints()
    """Volume for checkpoints. If unset, the operator creates a claim of 10Gi."""

    suspend: bool = False
    """Whether the training is suspended. If set to true while the training runs, the training saves a checkpoint, and
    the operator deletes its pods. Setting it to false resumes the training from the last checkpoint."""

    managed_by: NonEmptyStr | None = None
    """Controller or entity that manages the training. The operator reconciles a training only if this field is unset or
    resnext.dev/operator. Immutable."""

    run_policy: RunPolicy = RunPolicy()
    """Retries, deadlines and cleanup of the training."""

    rules = (
        Rule(
            f"!({_DEVICE} == 'gpu') || ({_GPUS})",
            lambda it: it.training.device != "gpu" or _requests_gpus(it),
            "training.device",
            f"device gpu needs GPUs: add {GPU} to workers.resources.limits or remove device",
        ),
        Rule(
            f"!({_DEVICE} == 'cpu') || !({_GPUS})",
            lambda it: it.training.device != "cpu" or not _requests_gpus(it),
            "training.device",
            f"device cpu does not use the requested GPUs: remove {GPU} from workers.resources.limits or remove device",
        ),
        Rule(
            "has(self.dataset) || (has(self.training.data) && has(self.training.data.format) "
            "&& self.training.data.format == 'synthetic')",
            lambda it: it.dataset is not None or it.training.data.format == "synthetic",
            "dataset",
            "a dataset is required: set dataset.claimName, or set training.data.format to synthetic",
        ),
        Rule(
            "!(has(self.training.checkpoint) && has(self.training.checkpoint.path)) "
            f"|| (self.training.checkpoint.path + '/').startsWith('{CHECKPOINTS}/') "
            "&& !(self.training.checkpoint.path + '/').contains('/../')",
            lambda it: (
                f"{it.training.checkpoint.path}/".startswith(f"{CHECKPOINTS}/")
                and not _escapes_directory(it.training.checkpoint.path)
            ),
            "training.checkpoint.path",
            f"must be {CHECKPOINTS} or a directory below it (without ..), because other paths are lost with the pod: "
            "correct it or remove it",
        ),
    )

    @property
    def shared_claims(self) -> dict[str, str]:
        """The claims that every worker mounts, by the field that names them."""
        of_dataset = {"spec.dataset.claimName": self.dataset.claim_name} if self.dataset else {}
        of_volumes = {
            f"spec.workers.volumes[{index}].persistentVolumeClaim.claimName": volume.persistent_volume_claim.claim_name
            for index, volume in enumerate(self.workers.volumes)
            if volume.persistent_volume_claim
        }
        return {**of_dataset, **of_volumes}
