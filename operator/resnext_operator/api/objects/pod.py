"""Pods."""

from typing import Literal, NotRequired, TypedDict

from resnext_operator.api.objects import Manifest
from resnext_operator.api.objects.meta import LocalObjectReference, ObjectMeta
from resnext_operator.api.objects.volume import Volume, VolumeMount

Quantities = dict[str, int | str]
"""Quantities by resource name, such as cpu or nvidia.com/gpu."""


class ResourceRequirements(TypedDict, total=False):
    limits: Quantities
    requests: Quantities


class SecretKeySelector(TypedDict):
    name: str
    key: str
    optional: bool


class EnvVarSource(TypedDict):
    secretKeyRef: SecretKeySelector


class EnvVar(TypedDict):
    name: str
    value: NotRequired[str]
    valueFrom: NotRequired[EnvVarSource]


class ContainerPort(TypedDict):
    name: str
    containerPort: int


class HTTPGetAction(TypedDict):
    path: str
    port: str


class Probe(TypedDict):
    httpGet: HTTPGetAction
    periodSeconds: int
    failureThreshold: int


class Capabilities(TypedDict):
    drop: list[str]


class SecurityContext(TypedDict):
    allowPrivilegeEscalation: bool
    readOnlyRootFilesystem: bool
    capabilities: Capabilities


class ContainerProgram(TypedDict):
    """Fields of a container that are optional or depend on its role."""

    args: list[str]
    ports: NotRequired[list[ContainerPort]]
    readinessProbe: NotRequired[Probe]
    resources: ResourceRequirements
    volumeMounts: list[VolumeMount]
    imagePullPolicy: NotRequired[str]


class Container(ContainerProgram):
    name: str
    image: str
    env: list[EnvVar]
    securityContext: SecurityContext
    terminationMessagePolicy: Literal["FallbackToLogsOnError"]


class SeccompProfile(TypedDict):
    type: Literal["RuntimeDefault"]


class PodSecurityContext(TypedDict):
    runAsNonRoot: bool
    runAsUser: int
    runAsGroup: int
    fsGroup: int
    fsGroupChangePolicy: Literal["OnRootMismatch"]
    seccompProfile: SeccompProfile


class Toleration(TypedDict):
    key: NotRequired[str]
    operator: str
    value: NotRequired[str]
    effect: NotRequired[str]
    tolerationSeconds: NotRequired[int]


class NodeSelectorRequirement(TypedDict):
    key: str
    operator: str
    values: list[str]


class NodeSelectorTerm(TypedDict):
    matchFields: list[NodeSelectorRequirement]


class PreferredSchedulingTerm(TypedDict):
    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(TypedDict, total=False):
    requiredDuringSchedulingIgnoredDuringExecution: Manifest
    preferredDuringSchedulingIgnoredDuringExecution: list[PreferredSchedulingTerm]


class Affinity(TypedDict, total=False):
    """Affinity; the operator only changes nodeAffinity. `api.scheduling` defines the fields in the spec."""

    nodeAffinity: NodeAffinity
    podAffinity: Manifest
    podAntiAffinity: Manifest


class TopologySpreadConstraint(TypedDict):
    maxSkew: int
    topologyKey: str
    whenUnsatisfiable: str
    labelSelector: Manifest
    minDomains: NotRequired[int]


class HostAlias(TypedDict):
    ip: str
    hostnames: list[str]


class PodSpec(TypedDict):
    restartPolicy: Literal["Never"]
    automountServiceAccountToken: bool
    enableServiceLinks: bool
    securityContext: PodSecurityContext
    tolerations: list[Toleration]
    containers: list[Container]
    volumes: list[Volume]
    affinity: NotRequired[Affinity]
    imagePullSecrets: NotRequired[list[LocalObjectReference]]
    nodeSelector: NotRequired[dict[str, str]]
    priorityClassName: NotRequired[str]
    schedulerName: NotRequired[str]
    runtimeClassName: NotRequired[str]
    terminationGracePeriodSeconds: NotRequired[int]
    topologySpreadConstraints: NotRequired[list[TopologySpreadConstraint]]
    schedulingGates: NotRequired[list[LocalObjectReference]]
    hostNetwork: NotRequired[bool]
    dnsPolicy: NotRequired[Literal["ClusterFirstWithHostNet"]]
    hostAliases: NotRequired[list[HostAlias]]


class Pod(TypedDict):
    apiVersion: Literal["v1"]
    kind: Literal["Pod"]
    metadata: ObjectMeta
    spec: PodSpec
