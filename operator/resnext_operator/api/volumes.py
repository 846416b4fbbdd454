"""Additional volumes of the workers, with the field names of the Kubernetes API.

Only the volume types below are supported; others (NFS, iSCSI, projected tokens and so on) are not.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Literal, cast

from pydantic import Field
from pydantic.alias_generators import to_camel

from resnext_operator.api.objects.volume import VolumeSource
from resnext_trainer.config.rules import Config, Rule

NonEmptyStr = Annotated[str, Field(min_length=1, max_length=253)]
# The pattern of Kubernetes without signs: a quantity in a pod cannot be negative.
_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,2})?$"
Quantity = Annotated[int, Field(ge=0, le=10**18)] | Annotated[str, Field(pattern=_QUANTITY, max_length=32)]
MAX_KEY_LENGTH = 317  # a prefix of 253 characters, a slash, and a name of 63
MapKey = Annotated[str, Field(max_length=MAX_KEY_LENGTH)]

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
QUALIFIED = f"^({_SUBDOMAIN}/)?{_NAME}$"
"""Keys of labels and taints: a name of at most 63 characters, optionally prefixed with a DNS subdomain and a slash."""

DOMAIN = f"^{_SUBDOMAIN}$"
ObjectName = Annotated[str, Field(pattern=DOMAIN, max_length=253)]
"""Name of a Kubernetes object: a DNS subdomain."""

LabelKey = Annotated[str, Field(pattern=QUALIFIED, max_length=253)]
LabelValue = Annotated[str, Field(pattern=f"^({_NAME})?$", max_length=63)]
Labels = Annotated[dict[MapKey, LabelValue], Field(max_length=32)]
Texts = Annotated[dict[MapKey, Annotated[str, Field(max_length=1024)]], Field(max_length=32)]

# Components of a path other than `..`, with and without colons; a mount path must not contain colons.
_PART, _PART_OF_MOUNT = (
    rf"([^/.{colon}][^/{colon}]*|\.[^/.{colon}][^/{colon}]*|\.\.[^/{colon}]+{dot})"
    for colon, dot in (("", r"|\."), (":", ""))
)
Within = Annotated[str, Field(pattern=rf"^({_PART}(/{_PART}?)*)?$", max_length=512)]
"""A relative path without `..`."""


def keys_rule(field: str, holds_cel: str, holds: Callable[[str], bool], message: str) -> Rule:
    """A rule that all keys of a map must meet; `holds_cel` is the condition on `key`."""
    path = f"self.{to_camel(field)}"
    return Rule(
        f"!has({path}) || {path}.all(key, {holds_cel})",
        lambda it: all(map(holds, getattr(it, field))),
        to_camel(field),
        message,
    )


def qualified_keys(field: str, flags: str = "") -> Rule:
    """The keys of a map must be qualified names, like label keys. flags: flags of the regular expression."""
    pattern = flags + QUALIFIED
    return keys_rule(
        field,
        f"key.matches(r'{pattern}') && key.indexOf('/') <= 253",
        lambda key: re.fullmatch(pattern, key) is not None and key.find("/") <= 253,
        "a key must have at most 63 letters, digits, '-', '_' and '.', optionally after a DNS subdomain and '/'",
    )


_SUFFIXES = {
    **{suffix: Decimal(10) ** exponent for suffix, exponent in zip("num", (-9, -6, -3), strict=True)},
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def amount(quantity: int | str) -> Decimal:
    """The value of a valid quantity, such as 0.5 for 500m."""
    text = str(quantity)
    suffix = text.lstrip("0123456789.")
    if suffix in _SUFFIXES:
        return Decimal(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    return Decimal(text)


OWN_FOLDERS = (
    *("/checkpoints", "/data", "/dev/shm", "/etc/resnext", "/etc/resnext/config", "/etc/resnext/ssh"),
    *("/home/resnext", "/run/resnext", "/tmp"),
)
"""Mount paths that the pods use themselves."""

_SOURCES = ("persistentVolumeClaim", "emptyDir", "configMap", "secret", "csi", "hostPath")
_SOURCE = "set exactly one of " + ", ".join(_SOURCES)
_listed = ", ".join(f"has(self.{source})" for source in _SOURCES)
_own = ", ".join(f"'{folder}'" for folder in OWN_FOLDERS)


def overlaps(path: str, other: str) -> bool:
    """Whether two directories are equal, or one contains the other."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


class SameNamespace(Config):
    """Reference to an object in the same namespace."""

    name: ObjectName
    """Name of the object."""


class ClaimVolume(Config):
    """PersistentVolumeClaim in the same namespace. With more than one worker it must be ReadOnlyMany or
    ReadWriteMany."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim."""

    read_only: bool = False
    """Mount the volume read-only."""


class EmptyDir(Config):
    """Temporary directory that shares a pod's lifetime."""

    medium: Literal["", "Memory"] = ""
    """Type of storage medium. Memory is a tmpfs and counts toward the memory limit. If unset, the node's default
    medium is used."""

    size_limit: Quantity | None = None
    """Total amount of local storage required for this volume. If unset, the size is unlimited."""


class ConfigMapVolume(Config):
    """ConfigMap to mount: each key is a file."""

    name: ObjectName
    """Name of the ConfigMap."""

    optional: bool = False
    """Whether pods can start if the ConfigMap does not exist."""


class SecretVolume(Config):
    """Secret to mount: each key is a file."""

    secret_name: ObjectName
    """Name of the Secret."""

    optional: bool = False
    """Whether pods can start if the Secret does not exist."""


class CsiVolume(Config):
    """Ephemeral storage that is handled by a CSI driver."""

    driver: Annotated[str, Field(pattern=f"(?i){DOMAIN}", max_length=63)]
    """Name of the CSI driver that handles this volume."""

    fs_type: NonEmptyStr | None = None
    """File system type to mount, such as ext4 or xfs. If unset, the CSI driver determines it."""

    read_only: bool = False
    """Mount the volume read-only."""

    volume_attributes: Texts = {}
    """Driver-specific properties that are passed to the CSI driver."""

    node_publish_secret_ref: SameNamespace | None = None
    """Secret with sensitive information to pass to the CSI driver."""


class HostPath(Config):
    """File or directory on the node, always mounted read-only. The operator must allow it."""

    path: Annotated[str, Field(pattern=rf"^(/{_PART}?)+$", max_length=512)]
    """Path on the node. The path or a parent directory must be listed in `allow.hostPaths` in the Helm chart."""

    type: Literal["", "Directory", "DirectoryOrCreate", "File"] = ""
    """Type of the path, which is checked before mounting. If unset, no check is performed."""


class Volume(Config):
    """Volume of every worker: a name and exactly one source."""

    name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=57)]
    """Name of the volume. Must be unique."""

    persistent_volume_claim: ClaimVolume | None = None
    """PersistentVolumeClaim in the same namespace."""

    empty_dir: EmptyDir | None = None
    """Temporary directory that shares a pod's lifetime."""

    config_map: ConfigMapVolume | None = None
    """ConfigMap to mount: each key is a file."""

    secret: SecretVolume | None = None
    """Secret to mount: each key is a file."""

    csi: CsiVolume | None = None
    """Ephemeral storage that is handled by a CSI driver."""

    host_path: HostPath | None = None
    """File or directory on the node. The operator must allow it."""

    rules = (Rule(f"[{_listed}].filter(it, it).size() == 1", lambda it: len(it.source) == 1, "name", _SOURCE),)

    @property
    def source(self) -> VolumeSource:
        """The source of the volume, as in a pod."""
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"name"})
        return cast("VolumeSource", written)


class VolumeMount(Config):
    """Mounting of a volume within a worker."""

    name: Annotated[str, Field(min_length=1, max_length=57)]
    """Must match the name of a volume."""

    mount_path: Annotated[str, Field(pattern=f"^(/{_PART_OF_MOUNT})+$", max_length=512)]
    """Path within the container at which the volume is mounted."""

    sub_path: Within = ""
    """Path within the volume to mount. If unset, the root of the volume is mounted."""

    read_only: bool = False
    """Mount the volume read-only."""

    rules = (
        Rule(
            f"![{_own}].exists(own, self.mountPath == own || self.mountPath.startsWith(own + '/') "
            "|| own.startsWith(self.mountPath + '/'))",
            lambda it: not any(overlaps(it.mount_path, own) for own in OWN_FOLDERS),
            "mountPath",
            f"overlaps a path that the operator mounts ({', '.join(OWN_FOLDERS)}): use another path",
        ),
    )
