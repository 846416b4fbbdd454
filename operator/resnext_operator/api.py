"""The resource: what a user asks for, what its status says, and what the operator sees and plans.

The models below are the CRD's schema; the sentence under a field is what `kubectl explain` prints.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from resnext_operator.scheduling import Affinity, Spread
from resnext_operator.status import Phase as Phase
from resnext_operator.status import readable
from resnext_operator.volumes import (
    LabelKey,
    Labels,
    LabelValue,
    MapKey,
    ObjectName,
    Quantity,
    SameNamespace,
    Text,
    Texts,
    Volume,
    VolumeMount,
    Within,
    amount,
    keys_rule,
    qualified_keys,
)
from resnext_trainer.config import manifests
from resnext_trainer.config.models import Training as TrainingConfig
from resnext_trainer.config.rules import Config, Rule
from resnext_trainer.config.validation import InvalidConfig, explain, resolve, without_nulls
from resnext_trainer.contract import Progress, TerminationReport

GROUP, VERSION, PLURAL, KIND, SHORT = manifests.GROUP, manifests.VERSION, "resnexttrainings", manifests.KIND, "rnx"
RESOURCE = (GROUP, VERSION, PLURAL)
GPU = "nvidia.com/gpu"
MANAGER = "resnext.dev/operator"
MAX_NAME = 40  # a pod's host name, such as NAME-worker-63-1234, has room for 63 characters

Manifest = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a training."""

Quantities = Annotated[dict[MapKey, Quantity], Field(max_length=16)]

RESERVED_NAMES = ("HOME", "HOSTNAME", "NVIDIA_VISIBLE_DEVICES", "PATH", "PYTHONHOME", "PYTHONPATH")
"""Variables that are set for the pods: where their programs are, and which GPUs they see."""

RESERVED_PREFIXES = (
    *("OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "PMIX_", "OMPI_MCA_plm_", "PRTE_MCA_plm_"),
    *("OMPI_MCA_orte_keep_fqdn", "PRTE_MCA_prte_keep_fqdn", "KUBERNETES_", "RESNEXT_"),
)
"""Those by which mpirun and its ranks know each other, and find their hosts."""

RESERVED_ANNOTATIONS = (
    *("kubernetes.io/config.mirror", "scheduler.alpha.kubernetes.io/tolerations"),
    *("controller.kubernetes.io/pod-deletion-cost", "seccomp.security.alpha.kubernetes.io/pod"),
)
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP = "container.seccomp.security.alpha.kubernetes.io/"
"""Annotations by which the API server judges a pod, and those that begin so, for one container each."""

MOST_SECONDS = 2**31 - 1  # as in Kubernetes' own fields of this kind
Seconds = Annotated[int, Field(ge=1, le=MOST_SECONDS)]


class InvalidTraining(ValueError):
    """A resource that is refused; the text names each field, what is wrong and the way out."""


_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_BASIC = ("cpu", "memory", "ephemeral-storage")
_RESOURCE_CEL = (
    f"key in [{', '.join(map(repr, _BASIC))}] "
    f"|| (key.matches(r'^{_DEVICE_NAME.pattern}$') && !key.startsWith('requests.') && !key.contains('..') "
    "&& key.indexOf('/') <= 244)"
)
_RESOURCE_MESSAGE = f"a resource is {', '.join(_BASIC)}, or a device with its domain, such as {GPU}"


def _is_resource(name: str) -> bool:
    device = _DEVICE_NAME.fullmatch(name) and not name.startswith("requests.") and ".." not in name
    return name in _BASIC or (bool(device) and name.find("/") <= 244)


class Resources(Config):
    """What a container may use, as in a pod."""

    limits: Quantities = {}
    """At most this; GPUs are asked for here, as nvidia.com/gpu."""

    requests: Quantities = {}
    """At least this; what is left out follows the limits."""

    rules = (
        *(keys_rule(field, _RESOURCE_CEL, _is_resource, _RESOURCE_MESSAGE) for field in ("limits", "requests")),
        *(
            Rule(
                f"!has(self.{field}) || self.{field}.all(key, !key.contains('/') || key == '{GPU}' "
                f"|| quantity(string(self.{field}[key])).isInteger())",
                lambda it, field=field: all(  # type: ignore[misc]
                    amount(value) % 1 == 0 for key, value in getattr(it, field).items() if "/" in key and key != GPU
                ),
                field,
                "devices are whole: write a whole number",
            )
            for field in ("limits", "requests")
        ),
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(key, !(key in self.limits) "
            "|| quantity(string(self.requests[key])).compareTo(quantity(string(self.limits[key]))) <= 0)",
            lambda it: all(amount(value) <= amount(it.limits.get(name, value)) for name, value in it.requests.items()),
            "requests",
            "a request is more than its limit: lower the request, or raise the limit",
        ),
    )


class Toleration(Config):
    """A taint that the pods put up with, as in a pod."""

    key: LabelKey | None = None
    """The taint's key; left out, every taint."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""

    value: LabelValue | None = None
    """The taint's value."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; left out, every effect."""

    toleration_seconds: Annotated[int, Field(ge=0, le=MOST_SECONDS)] | None = None
    """How long a NoExecute taint is borne."""

    rules = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            lambda it: it.key is not None or it.operator == "Exists",
            "operator",
            "without a key every taint is meant: set operator to Exists, or write the key",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator == 'Equal'",
            lambda it: not it.value or it.operator == "Equal",
            "value",
            "Exists takes no value: leave it out, or set operator to Equal",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda it: it.toleration_seconds is None or it.effect == "NoExecute",
            "tolerationSeconds",
            "only the effect NoExecute takes a time: set it, or leave out tolerationSeconds",
        ),
    )


class Variable(Config):
    """An environment variable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Its name."""

    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value."""

    rules = (
        Rule(
            f"!(self.name in [{', '.join(map(repr, RESERVED_NAMES))}]) && "
            + " && ".join(f"!self.name.startsWith({prefix!r})" for prefix in RESERVED_PREFIXES),
            lambda it: it.name not in RESERVED_NAMES and not it.name.startswith(RESERVED_PREFIXES),
            "name",
            "the pods set this variable themselves: leave it out",
        ),
    )


class Placement(Config):
    """Where pods may run and what they may use."""

    resources: Resources = Resources()
    """Limits and requests of the container."""

    node_selector: Labels = {}
    """Labels that a node must have."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pods put up with."""

    affinity: Affinity | None = None
    """Nodes that the pods are drawn to or kept from."""

    priority_class_name: ObjectName | None = None
    """Priority of the pods."""

    scheduler_name: Text | None = None
    """Another scheduler than the cluster's own."""

    runtime_class_name: ObjectName | None = None
    """Container runtime, such as nvidia."""

    env: Annotated[tuple[Variable, ...], Field(max_length=64)] = ()
    """Environment variables; the ranks see them too."""

    labels: Labels = {}
    """Labels on the pods, beside the operator's own; none of resnext.dev."""

    annotations: Texts = {}
    """Annotations on the pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.labels) || self.labels.all(key, !key.startsWith('{GROUP}/'))",
            lambda it: not any(key.startswith(f"{GROUP}/") for key in it.labels),
            "labels",
            f"the operator knows its pods by the labels of {GROUP}: use a prefix of your own",
        ),
        *map(qualified_keys, ("labels", "node_selector")),
        qualified_keys("annotations", "(?i)"),
        Rule(
            "!has(self.resources) || !has(self.resources.requests) || self.resources.requests.all(key, "
            "!key.contains('/') || (has(self.resources.limits) && key in self.resources.limits && quantity(string("
            "self.resources.requests[key])).compareTo(quantity(string(self.resources.limits[key]))) == 0))",
            lambda it: all(
                name in it.resources.limits and amount(value) == amount(it.resources.limits[name])
                for name, value in it.resources.requests.items()
                if "/" in name
            ),
            "resources.requests",
            "a request of devices must be their limit: write devices, such as GPUs, in limits alone",
        ),
        keys_rule(
            "annotations",
            f"!(key in [{', '.join(map(repr, RESERVED_ANNOTATIONS))}]) "
            f"&& !['{_APPARMOR}', '{_SECCOMP}'].exists(prefix, key.startsWith(prefix))",
            lambda key: key not in RESERVED_ANNOTATIONS and not key.startswith((_APPARMOR, _SECCOMP)),
            "Kubernetes gives this annotation a meaning that pods of a training cannot have: leave it out",
        ),
    )


class Workers(Placement):
    """The pods that compute: each runs `slots` ranks, one GPU each."""

    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """Number of worker pods. While it runs another number saves, and goes on from there with as many."""

    topology_spread_constraints: Annotated[tuple[Spread, ...], Field(max_length=8)] | None = None
    """How the workers lie over nodes or zones; left out, over nodes as evenly as it can be had. None with []."""

    slots: Annotated[int, Field(ge=1, le=16)] | None = None
    """Ranks in each worker; left out, the number of its GPUs, or 1 without GPUs."""

    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm; it counts against the memory limit."""

    termination_grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Time to finish a step and save a checkpoint when asked to stop."""

    volumes: Annotated[tuple[Volume, ...], Field(max_length=16)] = ()
    """More volumes, in every worker."""

    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=16)] = ()
    """Where these are mounted."""

    host_network: bool = False
    """Use the nodes' own network, where the operator's settings allow it; one worker a node, and no NetworkPolicy."""

    rules = (
        *Placement.rules,
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


class Launcher(Placement):
    """The pod that runs mpirun; it computes nothing and holds no GPU."""

    rules = (
        Rule(
            f"!({_GPU_OF_LAUNCHER})",
            lambda it: GPU not in it.resources.limits and GPU not in it.resources.requests,
            "resources",
            f"the launcher computes nothing: ask for {GPU} in workers.resources.limits",
        ),
        *Placement.rules,
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


def _climbs(path: str) -> bool:
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
            lambda it: not (it.sub_path.startswith("/") or _climbs(it.sub_path) or re.search(_CONTROL, it.sub_path)),
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
    """Most time from start to end; then it saves, stops and fails. Stops while suspended, restarts on resume."""

    pending_deadline_seconds: Seconds | None = None
    """Most time that pods may take to start, for want of an image, quota or GPUs; then it fails. Left out, no limit."""

    admission_timeout_seconds: Seconds = 60
    """Time after which a set of pods that stays incomplete, because the API server rejects some, is deleted. The
    operator then tries again after a random pause. Pods that are only unschedulable are left alone."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=MOST_SECONDS)] | None = None
    """Time from its end until the training is deleted, with its pods and without its checkpoints; left out, never."""

    clean_pod_policy: Literal["Running", "All", "None"] = "Running"
    """What goes when the training has ended: the pods that still run, all of them, or none."""

    avoid_nodes_after: Annotated[int, Field(ge=0, le=10)] = 2
    """Failures on a node, in the last ten attempts, after which it is avoided; a GPU needs to fail once. 0 is never."""

    stall_multiple: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    """Stalled when no step ends for so many times the median step time, and for a minute; evaluation counts as well."""

    stall_deadline_seconds: Seconds = 900
    """Time that a training may be Stalled before its attempt ends as hung, and another begins."""


def _asks_for_gpus(it: "Spec") -> bool:
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

    managed_by: Text | None = None
    """Another manager of this training; the operator then leaves it alone. Immutable."""

    run_policy: RunPolicy = RunPolicy()
    """When to give up, and what stays afterwards."""

    rules = (
        Rule(
            f"!({_DEVICE} == 'gpu') || ({_GPUS})",
            lambda it: it.training.device != "gpu" or _asks_for_gpus(it),
            "training.device",
            f"device gpu needs GPUs: set workers.resources.limits to hold {GPU}, or leave device out",
        ),
        Rule(
            f"!({_DEVICE} == 'cpu') || !({_GPUS})",
            lambda it: it.training.device != "cpu" or not _asks_for_gpus(it),
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
                and not _climbs(it.training.checkpoint.path)
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


@dataclass(frozen=True)
class Site:
    """What holds for every training here, by the operator's settings."""

    image: str
    """The trainer's, for trainings that name none."""
    operator_namespace: str = "default"
    metrics_from: tuple[Manifest, ...] = ()
    """Who else may read metrics, as a NetworkPolicy says it."""
    host_paths: tuple[str, ...] = ()
    """Folders of nodes that may be mounted, with all that is in them."""
    host_network: bool = False
    """Whether the nodes' own network may be used."""


@dataclass(frozen=True)
class Training:
    """One resource, parsed."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    spec: Spec
    site: Site
    status: Mapping[str, Any]
    """What of the stored status can be parsed."""
    stored: Mapping[str, Any] = field(default_factory=dict)
    """The status as it is stored, which may hold anything."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """spec.training as the user wrote it; `spec` holds it resolved."""
    invalid: str = ""
    """Why the spec cannot be used, although an earlier version accepted it: what could be read of it is in `spec`."""

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def image(self) -> str:
        """The trainer's."""
        return self.spec.image or self.site.image


def parse(body: Mapping[str, Any], site: Site) -> Training:
    """The resource as the operator works with it.

    Raises InvalidTraining in the API server's words.
    """
    metadata, found = body["metadata"], body.get("spec") or {}
    name = metadata["name"]
    _check_object("spec", found)
    _check_object("spec.training", found.get("training") or {})
    if len(name) > MAX_NAME:
        raise InvalidTraining(f"metadata.name: Invalid value: {json.dumps(name)}: {_NAME_RULE.message}")
    try:
        spec = without_nulls(found, Spec, "spec")
        written = spec.get("training")
        if isinstance(written, Mapping):
            spec["training"] = resolve(written).model_dump(mode="json", by_alias=True)
        parsed = Spec.model_validate_json(json.dumps(spec), by_name=False)
    except InvalidConfig as error:
        raise InvalidTraining(str(error)) from None
    except ValidationError as error:
        raise InvalidTraining(explain(error, root="spec")) from None
    return Training(
        namespace=metadata.get("namespace", "default"),
        name=name,
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        deleting="deletionTimestamp" in metadata,
        spec=parsed,
        site=site,
        status=readable(stored := body.get("status") or {}),
        stored=stored,
        written=written or {},
    )


def _check_object(path: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidTraining(f"{path}: Invalid value: {json.dumps(value)[:100]}: should be an object")


def read_leniently(body: Mapping[str, Any], site: Site, invalid: str) -> Training:
    """The resource with the fields of its spec that can be read, each by itself; the others have their defaults."""
    metadata, spec = body["metadata"], body.get("spec")
    return Training(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        deleting="deletionTimestamp" in metadata,
        spec=_read(Spec, spec if isinstance(spec, Mapping) else {}, training=TrainingConfig()),
        site=site,
        status=readable(stored := body.get("status") or {}),
        stored=stored,
        invalid=invalid,
    )


_Model = TypeVar("_Model", bound=Config)


def _read(model: type[_Model], written: Mapping[str, Any], **known: Any) -> _Model:
    found: dict[str, Any] = {}
    for name, described in model.model_fields.items():
        if name in known or (alias := str(described.alias)) not in written:
            continue
        value, kind = written[alias], described.annotation
        try:
            found[name] = TypeAdapter(described.rebuild_annotation()).validate_json(json.dumps(value), strict=True)
        except ValidationError:
            if isinstance(kind, type) and issubclass(kind, Config) and isinstance(value, Mapping):
                found[name] = _read(kind, value)
    return cast("_Model", model.model_construct(**found, **known))


_NAME_RULE = Rule(
    f"size(self.metadata.name) <= {MAX_NAME}",
    lambda it: len(it.name) <= MAX_NAME,
    "metadata.name",
    f"pods are named after it: use at most {MAX_NAME} characters",
)

ROOT_RULES = (_NAME_RULE,)
"""Rules of the resource as a whole."""

IMMUTABLE = ("training", "dataset", "checkpoints", "managedBy")
"""Fields of spec that stay as they were created."""

POD_FIELDS = ("image", "imagePullPolicy", "imagePullSecrets", "launcher")
"""Fields of spec that pods are made from, beside `workers`: they change only while the training is suspended."""


@dataclass(frozen=True)
class WorkerSeen:
    """A worker pod as the cluster shows it."""

    index: int
    incarnation: int
    name: str
    uid: str
    phase: str
    ready: bool = False
    address: str = ""
    deleting: bool = False
    disrupted: bool = False
    """Evicted, preempted or on a lost node."""
    unreachable: bool = False
    """Its node does not answer: it stays in Terminating until that node is back or removed."""
    trouble: str = ""
    """Why it does not start, in the scheduler's or the kubelet's words."""
    unschedulable: bool = False
    unschedulable_since: datetime | None = None
    scheduled: datetime | None = None
    failure: str = ""
    """Why its container ended."""
    ended_by: str = ""
    """The same in one word, such as StartError or OOMKilled."""
    exit_code: int | None = None
    out_of_memory: bool = False
    created: datetime | None = None
    gated: bool = False
    """Not given to the scheduler yet, until all pods of the training are admitted."""
    node: str = ""
    revision: str = ""
    """Which settings it was made from; empty if that is not known."""
    keys: str = ""
    """Which Secret it mounts; empty if that is not known."""

    @property
    def finished(self) -> bool:
        return self.phase in ("Failed", "Succeeded")

    @property
    def lost(self) -> bool:
        return self.deleting or self.finished


@dataclass(frozen=True)
class LauncherSeen:
    """A launcher pod as the cluster shows it."""

    attempt: int
    name: str
    uid: str
    phase: str
    deleting: bool = False
    disrupted: bool = False
    unreachable: bool = False
    trouble: str = ""
    unschedulable: bool = False
    scheduled: datetime | None = None
    exit_code: int | None = None
    report: TerminationReport | None = None
    ended: datetime | None = None
    node: str = ""
    workers: int | None = None
    """How many workers it was started on."""
    gone: bool = False
    """No longer in the cluster; this is how it was last seen."""

    @property
    def finished(self) -> bool:
        return self.phase in ("Failed", "Succeeded")


@dataclass(frozen=True)
class Observed:
    """What the cluster shows of one training's children."""

    workers: tuple[WorkerSeen, ...] = ()
    launchers: tuple[LauncherSeen, ...] = ()
    present: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The children that are no pods, and the claims that the training names: the hash of what was desired, if known."""
    access_modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """How each of these claims can be mounted."""
    foreign_claims: frozenset[str] = frozenset()
    """Which of these claims the operator did not create for this training."""
    progress: Progress | None = None
    """What worker 0 said last."""
    last_steps: Mapping[int, int | None] = field(default_factory=dict)
    """The last step of each rank, asked for when no step was made for a while; None for a rank that did not answer."""
    keys: str | None = None
    """The uid of the Secret with the keys; None when nobody has looked."""
    quota: bool | None = None
    """Whether the namespace has a ResourceQuota; known only once the API server would admit the pods: before, None."""
    launcher_admitted: bool = False
    """Whether the API server would admit the launcher now that all workers exist."""


@dataclass(frozen=True)
class Rejection:
    """An object that the API server did not create, and why."""

    kind: str
    name: str
    role: str
    """The pod's role; empty for what is no pod."""
    code: int
    message: str


@dataclass(frozen=True)
class Reference:
    """An object to delete: this one, and not another of the same name."""

    kind: str
    name: str
    uid: str
    grace_seconds: int | None = None
    """Time that it has to end; None is what its pod asks for."""


@dataclass(frozen=True)
class Event:
    """A transition told to people."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What is to be done about one training."""

    create: tuple[Manifest, ...] = ()
    update: tuple[Manifest, ...] = ()
    delete: tuple[Reference, ...] = ()
    ungate: tuple[Reference, ...] = ()
    """Workers to give to the scheduler."""
    status: Manifest = field(default_factory=dict)
    """The whole new status."""
    events: tuple[Event, ...] = ()
    needs_keys: bool = False
    """This plan is none yet: look for the Secret, make it if it is not there, and decide again knowing its uid."""
    needs_admission: bool = False
    """This plan is none yet: ask the API server whether it would admit the pods, and decide again."""
    needs_launcher_admission: bool = False
    """This plan is none yet: ask the API server again about the launcher, now that all workers exist."""
    requeue_after: timedelta | None = None
