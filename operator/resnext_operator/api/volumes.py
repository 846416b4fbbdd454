"""Volumes that a user gives the workers: the kinds that need no right of their own, and those of the node.

Typed fields in a pod's own spelling; what is not here (NFS, iSCSI, projected tokens …) cannot be asked for.
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
# Kubernetes' own pattern without the signs: less than nothing of anything makes no sense in a pod.
_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,2})?$"
Quantity = Annotated[int, Field(ge=0, le=10**18)] | Annotated[str, Field(pattern=_QUANTITY, max_length=32)]
MAX_KEY_LENGTH = 317  # a prefix of 253 characters, a slash, and a name of 63
MapKey = Annotated[str, Field(max_length=MAX_KEY_LENGTH)]

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
QUALIFIED = f"^({_SUBDOMAIN}/)?{_NAME}$"
"""Keys of labels, taints and nodes' labels: a name of at most 63 characters, with a DNS name and a slash before it."""

DOMAIN = f"^{_SUBDOMAIN}$"
ObjectName = Annotated[str, Field(pattern=DOMAIN, max_length=253)]
"""Name of an object in the cluster: without one of this form there can be no such object."""

LabelKey = Annotated[str, Field(pattern=QUALIFIED, max_length=253)]
LabelValue = Annotated[str, Field(pattern=f"^({_NAME})?$", max_length=63)]
Labels = Annotated[dict[MapKey, LabelValue], Field(max_length=32)]
Texts = Annotated[dict[MapKey, Annotated[str, Field(max_length=1024)]], Field(max_length=32)]

# Parts of a path that do not lead out of it, with and without the colon that no mount path may have.
_PART, _PART_OF_MOUNT = (
    rf"([^/.{colon}][^/{colon}]*|\.[^/.{colon}][^/{colon}]*|\.\.[^/{colon}]+{dot})"
    for colon, dot in (("", r"|\."), (":", ""))
)
Within = Annotated[str, Field(pattern=rf"^({_PART}(/{_PART}?)*)?$", max_length=512)]
"""A path below a folder: relative, and without `..`."""


def keys_rule(field: str, holds_cel: str, holds: Callable[[str], bool], message: str) -> Rule:
    """What the keys of a map have in common; `holds_cel` says it of `key`."""
    path = f"self.{to_camel(field)}"
    return Rule(
        f"!has({path}) || {path}.all(key, {holds_cel})",
        lambda it: all(map(holds, getattr(it, field))),
        to_camel(field),
        message,
    )


def qualified_keys(field: str, flags: str = "") -> Rule:
    """The keys of a map are qualified names, as those of labels; flags: of the regular expression."""
    pattern = flags + QUALIFIED
    return keys_rule(
        field,
        f"key.matches(r'{pattern}') && key.indexOf('/') <= 253",
        lambda key: re.fullmatch(pattern, key) is not None and key.find("/") <= 253,
        "a key is a name of at most 63 letters, digits, '-', '_' and '.', or a DNS name, '/' and such a name",
    )


_SUFFIXES = {
    **{suffix: Decimal(10) ** exponent for suffix, exponent in zip("num", (-9, -6, -3), strict=True)},
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def amount(quantity: int | str) -> Decimal:
    """A quantity as a number, such as 0.5 for 500m; it must have the form of one."""
    text = str(quantity)
    suffix = text.lstrip("0123456789.")
    if suffix in _SUFFIXES:
        return Decimal(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    return Decimal(text)


OWN_FOLDERS = (
    *("/checkpoints", "/data", "/dev/shm", "/etc/resnext", "/etc/resnext/config", "/etc/resnext/ssh"),
    *("/home/resnext", "/run/resnext", "/tmp"),
)
"""Where the pods mount what they need themselves."""

_SOURCES = ("persistentVolumeClaim", "emptyDir", "configMap", "secret", "csi", "hostPath")
_SOURCE = "write one of " + ", ".join(_SOURCES)
_listed = ", ".join(f"has(self.{source})" for source in _SOURCES)
_own = ", ".join(f"'{folder}'" for folder in OWN_FOLDERS)


def overlaps(path: str, other: str) -> bool:
    """Whether one of two folders is the other, or in it."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


class SameNamespace(Config):
    """An object of the same namespace."""

    name: ObjectName
    """Name of the object."""


class ClaimVolume(Config):
    """A claim; with several workers it must be ReadOnlyMany or ReadWriteMany."""

    claim_name: ObjectName
    """Name of the claim."""

    read_only: bool = False
    """Mount read-only."""


class EmptyDir(Config):
    """Ephemeral volume (emptyDir)."""

    medium: Literal["", "Memory"] = ""
    """Memory keeps it in memory, where it counts against the limit; left out, the node's disk."""

    size_limit: Quantity | None = None
    """Most that it may hold."""


class ConfigMapVolume(Config):
    """The entries of a ConfigMap, each as a file."""

    name: ObjectName
    """Name of the ConfigMap."""

    optional: bool = False
    """Whether pods start without it."""


class SecretVolume(Config):
    """The entries of a Secret, each as a file."""

    secret_name: ObjectName
    """Name of the Secret."""

    optional: bool = False
    """Whether pods start without it."""


class CsiVolume(Config):
    """A volume that a driver makes for the pod and takes away with it."""

    driver: Annotated[str, Field(pattern=f"(?i){DOMAIN}", max_length=63)]
    """Name of the driver."""

    fs_type: NonEmptyStr | None = None
    """File system; left out, the driver's choice."""

    read_only: bool = False
    """Mount read-only."""

    volume_attributes: Texts = {}
    """Driver attributes."""

    node_publish_secret_ref: SameNamespace | None = None
    """Secret that the driver is given."""


class HostPath(Config):
    """A folder of the node, always mounted to be read alone, where the operator's settings allow it."""

    path: Annotated[str, Field(pattern=rf"^(/{_PART}?)+$", max_length=512)]
    """The folder; it, or one above it, must be in the operator's setting hostPaths."""

    type: Literal["", "Directory", "DirectoryOrCreate", "File"] = ""
    """What must be there; left out, nothing is looked at."""


class Volume(Config):
    """A volume of every worker: a name and exactly one source, in a pod's own words."""

    name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=57)]
    """Name of the volume, for volumeMounts."""

    persistent_volume_claim: ClaimVolume | None = None
    """A claim."""

    empty_dir: EmptyDir | None = None
    """Ephemeral volume (emptyDir)."""

    config_map: ConfigMapVolume | None = None
    """A ConfigMap's entries as files."""

    secret: SecretVolume | None = None
    """A Secret's entries as files."""

    csi: CsiVolume | None = None
    """A volume that a CSI driver makes for the pod."""

    host_path: HostPath | None = None
    """A folder of the node, where the operator's settings allow it."""

    rules = (Rule(f"[{_listed}].filter(it, it).size() == 1", lambda it: len(it.source) == 1, "name", _SOURCE),)

    @property
    def source(self) -> VolumeSource:
        """Where it comes from, as a pod says it."""
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"name"})
        return cast("VolumeSource", written)


class VolumeMount(Config):
    """Where a volume is found in the workers."""

    name: Annotated[str, Field(min_length=1, max_length=57)]
    """The volume's name."""

    mount_path: Annotated[str, Field(pattern=f"^(/{_PART_OF_MOUNT})+$", max_length=512)]
    """The folder."""

    sub_path: Within = ""
    """Folder in the volume."""

    read_only: bool = False
    """Mount read-only."""

    rules = (
        Rule(
            f"![{_own}].exists(own, self.mountPath == own || self.mountPath.startsWith(own + '/') "
            "|| own.startsWith(self.mountPath + '/'))",
            lambda it: not any(overlaps(it.mount_path, own) for own in OWN_FOLDERS),
            "mountPath",
            f"the pods mount folders of their own there, at {', '.join(OWN_FOLDERS)}: choose another folder",
        ),
    )
