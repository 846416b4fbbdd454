"""Fields that the worker pods and the launcher pod have in common: resources, scheduling, environment.

`kubectl explain` prints the docstring under a field.
"""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from resnext_operator.api.groupversion import GROUP
from resnext_operator.api.scheduling import Affinity
from resnext_operator.api.volumes import (
    LabelKey,
    Labels,
    LabelValue,
    MapKey,
    NonEmptyStr,
    ObjectName,
    Quantity,
    Texts,
    amount,
    keys_rule,
    qualified_keys,
)
from resnext_trainer.config.rules import Config, Rule

GPU = "nvidia.com/gpu"

Quantities = Annotated[dict[MapKey, Quantity], Field(max_length=16)]

RESERVED_NAMES = ("HOME", "HOSTNAME", "NVIDIA_VISIBLE_DEVICES", "PATH", "PYTHONHOME", "PYTHONPATH")
"""Environment variables that the pods set: paths of programs, and visible GPUs."""

RESERVED_PREFIXES = (
    *("OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "PMIX_", "OMPI_MCA_plm_", "PRTE_MCA_plm_"),
    *("OMPI_MCA_orte_keep_fqdn", "PRTE_MCA_prte_keep_fqdn", "KUBERNETES_", "RESNEXT_"),
)
"""Prefixes of variables that mpirun, its ranks, the kubelet or the operator set."""

RESERVED_ANNOTATIONS = (
    *("kubernetes.io/config.mirror", "scheduler.alpha.kubernetes.io/tolerations"),
    *("controller.kubernetes.io/pod-deletion-cost", "seccomp.security.alpha.kubernetes.io/pod"),
)
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP = "container.seccomp.security.alpha.kubernetes.io/"
"""Prefixes of annotations for a single container; like those above, they change how a pod is admitted or run."""

MAX_INT32 = 2**31 - 1  # as for such fields in Kubernetes


_DEVICE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_BASIC = ("cpu", "memory", "ephemeral-storage")
_RESOURCE_CEL = (
    f"key in [{', '.join(map(repr, _BASIC))}] "
    f"|| (key.matches(r'^{_DEVICE_NAME.pattern}$') && !key.startsWith('requests.') && !key.contains('..') "
    "&& key.indexOf('/') <= 244)"
)
_RESOURCE_MESSAGE = f"must be {', '.join(_BASIC)} or an extended resource with its domain, such as {GPU}"


def _is_resource(name: str) -> bool:
    device = _DEVICE_NAME.fullmatch(name) and not name.startswith("requests.") and ".." not in name
    return name in _BASIC or (bool(device) and name.find("/") <= 244)


class Resources(Config):
    """Compute resource requirements of a container."""

    limits: Quantities = {}
    """Maximum amount of compute resources allowed. GPUs are requested here, as nvidia.com/gpu."""

    requests: Quantities = {}
    """Minimum amount of compute resources required. If unset, the limits are used. Requests cannot
    exceed limits."""

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
                "an extended resource must be a whole number",
            )
            for field in ("limits", "requests")
        ),
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(key, !(key in self.limits) "
            "|| quantity(string(self.requests[key])).compareTo(quantity(string(self.limits[key]))) <= 0)",
            lambda it: all(amount(value) <= amount(it.limits.get(name, value)) for name, value in it.requests.items()),
            "requests",
            "a request exceeds its limit: lower the request or raise the limit",
        ),
    )


class Toleration(Config):
    """The pods tolerate any taint that matches key, value and effect using the matching operator."""

    key: LabelKey | None = None
    """Taint key that the toleration applies to. If unset, all taint keys match, and the operator must be
    Exists."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """Relationship of the key to the value: Exists matches every value of the taint."""

    value: LabelValue | None = None
    """Taint value that the toleration matches. Must be unset if the operator is Exists."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect to match. If unset, all taint effects match."""

    toleration_seconds: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    """Period of time in seconds that the taint is tolerated; the effect must be NoExecute. If unset, the taint
    is tolerated forever (no eviction)."""

    rules = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            lambda it: it.key is not None or it.operator == "Exists",
            "operator",
            "must be Exists if key is unset: set operator to Exists or set key",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator == 'Equal'",
            lambda it: not it.value or it.operator == "Equal",
            "value",
            "must be unset if operator is Exists: remove it or set operator to Equal",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda it: it.toleration_seconds is None or it.effect == "NoExecute",
            "tolerationSeconds",
            "requires effect NoExecute: set effect to NoExecute or remove tolerationSeconds",
        ),
    )


class EnvVar(Config):
    """An environment variable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the variable."""

    value: Annotated[str, Field(max_length=4096)] = ""
    """Value of the variable."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in [{', '.join(map(repr, RESERVED_NAMES))}]) && "
            + " && ".join(f"!self.name.startsWith({prefix!r})" for prefix in RESERVED_PREFIXES),
            lambda it: it.name not in RESERVED_NAMES and not it.name.startswith(RESERVED_PREFIXES),
            "name",
            "this variable is set by the operator: remove it",
        ),
    )


class SecretKeySelector(Config):
    """Key of a Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""

    key: Annotated[str, Field(pattern=r"^\.?[-_A-Za-z0-9][-._A-Za-z0-9]*$", max_length=253)]
    """Key of the Secret to select from."""

    optional: bool = False
    """Whether pods can start if the Secret or its key does not exist."""


class EnvVarSource(Config):
    """Source of the value of an environment variable."""

    secret_key_ref: SecretKeySelector
    """Key of a Secret in the same namespace."""


class WorkerEnvVar(EnvVar):
    """An environment variable of a worker, with a value or a source of its value."""

    value_from: EnvVarSource | None = None
    """Source of the value, for example a Secret with the token of an experiment tracker. Must be unset if value is set.
    Running pods do not see later changes to the Secret."""

    rules = (
        *EnvVar.rules,
        Rule(
            "!has(self.valueFrom) || !has(self.value) || self.value == ''",
            lambda it: it.value_from is None or not it.value,
            "valueFrom",
            "value and valueFrom are mutually exclusive: remove one of them",
        ),
    )


class PodTemplate(Config):
    """Settings of a pod."""

    resources: Resources = Resources()
    """Compute resources required by the container."""

    node_selector: Labels = {}
    """Selector which must match a node's labels for the pod to be scheduled on that node."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """The pod's tolerations."""

    affinity: Affinity | None = None
    """The pod's scheduling constraints."""

    priority_class_name: ObjectName | None = None
    """Name of the PriorityClass of the pod. If unset, the pod has the cluster's default priority."""

    scheduler_name: NonEmptyStr | None = None
    """Name of the scheduler that dispatches the pod. If unset, the default scheduler dispatches
    it."""

    runtime_class_name: ObjectName | None = None
    """Name of the RuntimeClass used to run the pod, such as nvidia. If unset, the cluster's default
    runtime is used."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = ()
    """Environment variables to set in the container."""

    labels: Labels = {}
    """Labels to add to the pod. Keys with the prefix resnext.dev/ are reserved."""

    annotations: Texts = {}
    """Annotations to add to the pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.labels) || self.labels.all(key, !key.startsWith('{GROUP}/'))",
            lambda it: not any(key.startswith(f"{GROUP}/") for key in it.labels),
            "labels",
            f"the prefix {GROUP}/ is reserved for the operator: use another prefix",
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
            "the request of an extended resource must equal its limit: set resources such as GPUs only in limits",
        ),
        keys_rule(
            "annotations",
            f"!(key in [{', '.join(map(repr, RESERVED_ANNOTATIONS))}]) "
            f"&& !['{_APPARMOR}', '{_SECCOMP}'].exists(prefix, key.startsWith(prefix))",
            lambda key: key not in RESERVED_ANNOTATIONS and not key.startswith((_APPARMOR, _SECCOMP)),
            "Kubernetes reserves this annotation: remove it",
        ),
    )
