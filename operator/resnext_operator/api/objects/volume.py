"""Volumes of pods, and where containers mount them."""

from typing import NotRequired, TypedDict

from resnext_operator.api.objects import Manifest


class PersistentVolumeClaimVolumeSource(TypedDict):
    claimName: str
    readOnly: NotRequired[bool]


class EmptyDirVolumeSource(TypedDict, total=False):
    medium: str
    sizeLimit: int | str


class ConfigMapVolumeSource(TypedDict):
    name: str
    optional: NotRequired[bool]


class SecretVolumeSource(TypedDict):
    secretName: str
    defaultMode: NotRequired[int]
    optional: NotRequired[bool]


class VolumeSource(TypedDict, total=False):
    """One of these."""

    persistentVolumeClaim: PersistentVolumeClaimVolumeSource
    emptyDir: EmptyDirVolumeSource
    configMap: ConfigMapVolumeSource
    secret: SecretVolumeSource
    # Only users ask for these two; `api.volumes` has their fields.
    csi: Manifest
    hostPath: Manifest


class Volume(VolumeSource):
    name: str


class VolumeMount(TypedDict):
    name: str
    mountPath: str
    subPath: NotRequired[str]
    readOnly: NotRequired[bool]
