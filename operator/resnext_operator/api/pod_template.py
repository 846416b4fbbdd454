"""What the pods of workers and of the launcher have in common: resources, scheduling, environment.

The sentence under a field is what `kubectl explain` prints.
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

MAX_INT32 = 2**31 - 1  # as in Kubernetes' own fields of this kind


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

    toleration_seconds: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    """Seconds a NoExecute taint is tolerated."""

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


class EnvVar(Config):
    """An environment variable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the variable."""

    value: Annotated[str, Field(max_length=4096)] = ""
    """Value of the variable."""

    rules = (
        Rule(
            f"!(self.name in [{', '.join(map(repr, RESERVED_NAMES))}]) && "
            + " && ".join(f"!self.name.startsWith({prefix!r})" for prefix in RESERVED_PREFIXES),
            lambda it: it.name not in RESERVED_NAMES and not it.name.startswith(RESERVED_PREFIXES),
            "name",
            "the pods set this variable themselves: leave it out",
        ),
    )


class PodTemplate(Config):
    """Where pods may run and what they may use."""

    resources: Resources = Resources()
    """Limits and requests of the container."""

    node_selector: Labels = {}
    """Labels that a node must have."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Tolerations of the pods."""

    affinity: Affinity | None = None
    """Affinity of the pods."""

    priority_class_name: ObjectName | None = None
    """Priority of the pods."""

    scheduler_name: NonEmptyStr | None = None
    """Another scheduler than the cluster's own."""

    runtime_class_name: ObjectName | None = None
    """Container runtime, such as nvidia."""

    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = ()
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
