"""Volumes and volume mounts of pods."""

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
    """Source of a volume; exactly one field is set."""

    persistentVolumeClaim: PersistentVolumeClaimVolumeSource
    emptyDir: EmptyDirVolumeSource
    configMap: ConfigMapVolumeSource
    secret: SecretVolumeSource
    # Only used for volumes from the spec; `api.volumes` defines their fields.
    csi: Manifest
    hostPath: Manifest


class Volume(VolumeSource):
    name: str


class VolumeMount(TypedDict):
    name: str
    mountPath: str
    subPath: NotRequired[str]
    readOnly: NotRequired[bool]
