"""The spec of a ResNeXtTraining: what a user asks for.

The models below are the CRD's schema; the sentence under a field is what `kubectl explain` prints.
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from resnext_operator.api.pod_template import GPU, MAX_INT32, PodTemplate
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
    """The pods that compute: each runs `slots` ranks, one GPU each."""

    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """Number of worker pods. Changing it while running checkpoints and resumes with the new number."""

    topology_spread_constraints: Annotated[tuple[Spread, ...], Field(max_length=8)] | None = None
    """Topology spread constraints; default: spread over nodes (best effort). `[]` disables it."""

    slots: Annotated[int, Field(ge=1, le=16)] | None = None
    """Ranks in each worker; left out, the number of its GPUs, or 1 without GPUs."""

    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm; it counts against the memory limit."""

    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Time to finish a step and save a checkpoint when asked to stop."""

    volumes: Annotated[tuple[Volume, ...], Field(max_length=16)] = ()
    """Extra volumes for the workers."""

    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=16)] = ()
    """Mounts of these volumes."""

    host_network: bool = False
    """Use the nodes' own network, where the operator's settings allow it; one worker a node, and no NetworkPolicy."""

    rules = (
        *PodTemplate.rules,
        Rule(
            f"!(has(self.resources) && has(self.resources.limits) && '{GPU}' in self.resources.limits) "
            f"|| string(self.resources.limits['{GPU}']).matches('^[1-9][0-9]*$')",
            lambda it: re.fullmatch("[1-9][0-9]*", str(it.resources.limits.get(GPU, 1))) is not None,
            "resources.limits",
            f"GPUs are whole: write {GPU} as a number from 1 on, or leave it out",
        ),
        Rule(
            "!(has(self.slots) && has(self.resources) && has(self.resources.limits) "
            f"&& '{GPU}' in self.resources.limits) || string(self.slots) == string(self.resources.limits['{GPU}'])",
            lambda it: it.slots is None or not it.gpus or it.slots == it.gpus,
            "slots",
            f"a rank needs a GPU of its own: set slots to the limit of {GPU}, or leave it out",
        ),
        Rule(
            "!has(self.volumes) || self.volumes.all(it, self.volumes.exists_one(other, other.name == it.name))",
            lambda it: len({volume.name for volume in it.volumes}) == len(it.volumes),
            "volumes",
            "two volumes have one name: rename one",
        ),
        Rule(
            "!has(self.volumeMounts) "
            "|| self.volumeMounts.all(it, has(self.volumes) && self.volumes.exists(volume, volume.name == it.name))",
            lambda it: {mount.name for mount in it.volume_mounts} <= {volume.name for volume in it.volumes},
            "volumeMounts",
            "each needs a volume of its name: add it to volumes",
        ),
        Rule(
            "!has(self.volumeMounts) || self.volumeMounts.all(it, "
            "self.volumeMounts.exists_one(other, other.mountPath == it.mountPath))",
            lambda it: len({mount.mount_path for mount in it.volume_mounts}) == len(it.volume_mounts),
            "volumeMounts",
            "two volumes are mounted on one path: change one mountPath",
        ),
        Rule(
            "!has(self.topologySpreadConstraints) || self.topologySpreadConstraints.all(it, "
            "self.topologySpreadConstraints.exists_one(other, other.topologyKey == it.topologyKey "
            "&& other.whenUnsatisfiable == it.whenUnsatisfiable))",
            lambda it: len({(each.topology_key, each.when_unsatisfiable) for each in it.spreads}) == len(it.spreads),
            "topologySpreadConstraints",
            "two constraints have one topologyKey and one whenUnsatisfiable: remove one",
        ),
        Rule(
            "!has(self.sharedMemory) || quantity(string(self.sharedMemory)).compareTo(quantity('0')) > 0",
            lambda it: amount(it.shared_memory) > 0,
            "sharedMemory",
            "a size is more than 0: raise it, or leave it out",
        ),
    )

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """The constraints that the user wrote."""
        return self.topology_spread_constraints or ()

    @property
    def memory_limit(self) -> str:
        """Most memory of each worker, as it was written; empty without a limit."""
        return str(self.resources.limits.get("memory", ""))

    @property
    def gpus(self) -> int:
        """GPUs in each worker."""
        return int(self.resources.limits.get(GPU, 0))

    @property
    def ranks(self) -> int:
        """Ranks in each worker."""
        return self.slots or self.gpus or 1


_GPU_OF_LAUNCHER = " || ".join(
    f"(has(self.resources) && has(self.resources.{kind}) && '{GPU}' in self.resources.{kind})"
    for kind in ("limits", "requests")
)


class Launcher(PodTemplate):
    """The pod that runs mpirun; it computes nothing and holds no GPU."""

    rules = (
        Rule(
            f"!({_GPU_OF_LAUNCHER})",
            lambda it: GPU not in it.resources.limits and GPU not in it.resources.requests,
            "resources",
            f"the launcher computes nothing: ask for {GPU} in workers.resources.limits",
        ),
        *PodTemplate.rules,
    )


class Dataset(Config):
    """The images."""

    claim_name: ObjectName
    """Claim with the images, mounted read-only at /data in every worker: ReadOnlyMany or ReadWriteMany."""

    sub_path: Within = ""
    """Folder in the claim."""


class ClaimTemplate(Config):
    """A claim to make; it outlives the training."""

    storage_class_name: ObjectName | None = None
    """Storage class; left out, the cluster's default."""

    size: Quantity = "10Gi"
    """How much to ask for."""

    rules = (
        Rule(
            "!has(self.size) || quantity(string(self.size)).compareTo(quantity('0')) > 0",
            lambda it: amount(it.size) > 0,
            "size",
            "a size is more than 0: raise it, or leave it out",
        ),
    )


_CONTROL = r"[\x00-\x1f\x7f]"  # of RE2 and of Python alike


def _escapes_directory(path: str) -> bool:
    return "/../" in f"/{path}/"


class Checkpoints(Config):
    """Where checkpoints go: /checkpoints in worker 0 alone, so ReadWriteOnce is enough."""

    claim_name: ObjectName | None = None
    """A claim that is there already."""

    template: ClaimTemplate | None = None
    """A claim to make, called NAME-checkpoints. Deleting the training never deletes it."""

    sub_path: Annotated[str, Field(max_length=512)] = ""
    """Directory in the claim that the training sees as /checkpoints; worker 0 creates it if it is missing."""

    rules = (
        Rule(
            "!has(self.subPath) || !(self.subPath.startsWith('/') || ('/' + self.subPath + '/').contains('/../') "
            f"|| self.subPath.matches(r'{_CONTROL}'))",
            lambda it: (
                not (it.sub_path.startswith("/") or _escapes_directory(it.sub_path) or re.search(_CONTROL, it.sub_path))
            ),
            "subPath",
            "it is a directory in the claim: write a relative path without .. and control characters",
        ),
        Rule(
            "!(has(self.claimName) && has(self.template))",
            lambda it: it.claim_name is None or it.template is None,
            "template",
            "a claim is either there or made: leave out claimName or template",
        ),
    )


class RunPolicy(Config):
    """When to give up, and what stays afterwards."""

    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 6
    """Failures of the training itself before it fails for good; evictions and lost nodes are not counted."""

    active_deadline_seconds: Seconds | None = None
    """Maximum run time; on expiry the training checkpoints and fails. Stops while suspended, restarts on resume."""

    pending_deadline_seconds: Seconds | None = None
    """Maximum time in Pending (image, quota, GPUs); then the training fails. Unset: unlimited."""

    admission_timeout_seconds: Seconds = 60
    """Time after which a set of pods that stays incomplete, because the API server rejects some, is deleted. The
    operator then tries again after a random pause. Pods that are only unschedulable are left alone."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    """Time from its end until the training is deleted, with its pods and without its checkpoints; left out, never."""

    clean_pod_policy: Literal["Running", "All", "None"] = "Running"
    """What goes when the training has ended: the pods that still run, all of them, or none."""

    avoid_nodes_after: Annotated[int, Field(ge=0, le=10)] = 2
    """Failures on a node, in the last ten attempts, after which it is avoided (one GPU failure suffices); 0
    disables."""

    stall_timeout_multiple: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    """Stalled after this multiple of the median step time without a completed step (≥ 60 s); evaluation counts as
    well."""

    stall_deadline_seconds: Seconds = 900
    """Time that a training may be Stalled before its attempt ends as hung, and another begins."""


def _requests_gpus(it: "Spec") -> bool:
    return it.workers.gpus > 0


CHECKPOINTS = "/checkpoints"
"""Where worker 0 mounts the checkpoints' claim."""

_GPUS = f"has(self.workers) && has(self.workers.resources) && has(self.workers.resources.limits) && '{GPU}' in "
_GPUS += "self.workers.resources.limits"
_DEVICE = "has(self.training.device) && self.training.device"


class Spec(Config):
    """What is asked for."""

    training: TrainingConfig
    """The training itself; immutable."""

    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9\[][-A-Za-z0-9._:/@+\[\]]*$", max_length=512)] | None = None
    """The trainer's image; left out, the one that the operator was installed with."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When to pull the image."""

    image_pull_secrets: Annotated[tuple[SameNamespace, ...], Field(max_length=8)] = ()
    """Secrets for pulling the image."""

    workers: Workers = Workers()
    """The pods that compute."""

    launcher: Launcher = Launcher()
    """The pod that runs mpirun."""

    dataset: Dataset | None = None
    """The images; left out for synthetic data."""

    checkpoints: Checkpoints = Checkpoints()
    """Where checkpoints go; left out, a claim of 10Gi is made."""

    suspend: bool = False
    """Save a checkpoint and give the pods back; false again goes on from it."""

    managed_by: NonEmptyStr | None = None
    """Another manager of this training; the operator then leaves it alone. Immutable."""

    run_policy: RunPolicy = RunPolicy()
    """When to give up, and what stays afterwards."""

    rules = (
        Rule(
            f"!({_DEVICE} == 'gpu') || ({_GPUS})",
            lambda it: it.training.device != "gpu" or _requests_gpus(it),
            "training.device",
            f"device gpu needs GPUs: set workers.resources.limits to hold {GPU}, or leave device out",
        ),
        Rule(
            f"!({_DEVICE} == 'cpu') || !({_GPUS})",
            lambda it: it.training.device != "cpu" or not _requests_gpus(it),
            "training.device",
            f"device cpu would leave the GPUs idle: take {GPU} out of workers.resources.limits, or leave device out",
        ),
        Rule(
            "has(self.dataset) || (has(self.training.data) && has(self.training.data.format) "
            "&& self.training.data.format == 'synthetic')",
            lambda it: it.dataset is not None or it.training.data.format == "synthetic",
            "dataset",
            "the images' claim is missing: set dataset.claimName, or training.data.format to synthetic",
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
            f"what is written elsewhere is lost with the pod: set it to {CHECKPOINTS} or a directory below (without "
            "..), or leave it out",
        ),
    )

    @property
    def shared_claims(self) -> dict[str, str]:
        """The claims that every worker mounts, each under the field that names it."""
        of_dataset = {"spec.dataset.claimName": self.dataset.claim_name} if self.dataset else {}
        volumes = ((volume.name, volume.persistent_volume_claim) for volume in self.workers.volumes)
        return {**of_dataset, **{f"spec.workers.volumes, {name}": claim.claim_name for name, claim in volumes if claim}}
