"""Objects that all pods of a training share."""

from typing import Literal, NotRequired, TypeAlias, TypedDict

from resnext_operator.api.objects import Manifest
from resnext_operator.api.objects.meta import LabelSelector, ObjectMeta
from resnext_operator.api.objects.pod import Pod, ResourceRequirements


class ConfigMap(TypedDict):
    apiVersion: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: ObjectMeta
    data: dict[str, str]


class Secret(TypedDict):
    apiVersion: Literal["v1"]
    kind: Literal["Secret"]
    metadata: ObjectMeta
    type: Literal["Opaque"]
    stringData: dict[str, str]


class PersistentVolumeClaimSpec(TypedDict):
    accessModes: list[str]
    resources: ResourceRequirements
    storageClassName: NotRequired[str]


class PersistentVolumeClaim(TypedDict):
    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: ObjectMeta
    spec: PersistentVolumeClaimSpec


class NetworkPolicyPeer(TypedDict, total=False):
    namespaceSelector: LabelSelector
    podSelector: LabelSelector


class NetworkPolicyPort(TypedDict):
    protocol: Literal["TCP"]
    port: int
    endPort: int


NetworkPolicyIngressRule = TypedDict(
    "NetworkPolicyIngressRule",
    # Peers from the settings of the operator are used unchanged.
    {"from": list[NetworkPolicyPeer | Manifest], "ports": NotRequired[list[NetworkPolicyPort]]},
)


class NetworkPolicySpec(TypedDict):
    podSelector: LabelSelector
    policyTypes: list[Literal["Ingress"]]
    ingress: list[NetworkPolicyIngressRule]


class NetworkPolicy(TypedDict):
    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: ObjectMeta
    spec: NetworkPolicySpec


SharedObject: TypeAlias = ConfigMap | NetworkPolicy | PersistentVolumeClaim
ManagedObject: TypeAlias = Pod | Secret | SharedObject
