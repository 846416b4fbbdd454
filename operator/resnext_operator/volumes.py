"""Volumes that a user gives the workers: the kinds that need no right of their own, and those of the node.

Typed fields in a pod's own spelling; what is not here (NFS, iSCSI, projected tokens …) cannot be asked for.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from resnext_trainer.config import Config, Rule

Text = Annotated[str, Field(min_length=1, max_length=253)]
# Kubernetes' own pattern without the signs: less than nothing of anything makes no sense in a pod.
_QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?$"
Quantity = Annotated[int, Field(ge=0, le=10**18)] | Annotated[str, Field(pattern=_QUANTITY, max_length=32)]
MOST_KEY = 317  # a prefix of 253 characters, a slash, and a name of 63
MapKey = Annotated[str, Field(max_length=MOST_KEY)]
Labels = Annotated[dict[MapKey, Annotated[str, Field(max_length=1024)]], Field(max_length=32)]

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


class SameNamespace(Config):
    """An object of the same namespace."""

    name: Text
    """Its name."""


class ClaimVolume(Config):
    """A claim; with several workers it must be ReadOnlyMany or ReadWriteMany."""

    claim_name: Text
    """Name of the claim."""

    read_only: bool = False
    """Mount it to be read alone."""


class EmptyDir(Config):
    """A folder that goes with the pod."""

    medium: Literal["", "Memory"] = ""
    """Memory keeps it in memory, where it counts against the limit; left out, the node's disk."""

    size_limit: Quantity | None = None
    """Most that it may hold."""


class ConfigMapVolume(Config):
    """The entries of a ConfigMap, each as a file."""

    name: Text
    """Name of the ConfigMap."""

    optional: bool = False
    """Whether pods start without it."""


class SecretVolume(Config):
    """The entries of a Secret, each as a file."""

    secret_name: Text
    """Name of the Secret."""

    optional: bool = False
    """Whether pods start without it."""


class CsiVolume(Config):
    """A volume that a driver makes for the pod and takes away with it."""

    driver: Text
    """Name of the driver."""

    fs_type: Text | None = None
    """File system; left out, the driver's choice."""

    read_only: bool = False
    """Mount it to be read alone."""

    volume_attributes: Labels = {}
    """What the driver wants to know."""

    node_publish_secret_ref: SameNamespace | None = None
    """Secret that the driver is given."""


class HostPath(Config):
    """A folder of the node, always mounted to be read alone, where the operator's settings allow it."""

    path: Annotated[str, Field(pattern="^/", max_length=512)]
    """The folder; it, or one above it, must be in the operator's setting hostPaths."""

    type: Literal["", "Directory", "DirectoryOrCreate", "File"] = ""
    """What must be there; left out, nothing is looked at."""


class Volume(Config):
    """A volume of every worker: a name and exactly one source, in a pod's own words."""

    name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=57)]
    """Its name, for volumeMounts."""

    persistent_volume_claim: ClaimVolume | None = None
    """A claim."""

    empty_dir: EmptyDir | None = None
    """A folder that goes with the pod."""

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
    def source(self) -> dict[str, Any]:
        """Where it comes from, as a pod says it."""
        written: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {kind: written[kind] for kind in _SOURCES if kind in written}


class VolumeMount(Config):
    """Where a volume is found in the workers."""

    name: Annotated[str, Field(min_length=1, max_length=57)]
    """The volume's name."""

    mount_path: Annotated[str, Field(pattern="^(/[^/:]+)+$", max_length=512)]
    """The folder."""

    sub_path: Annotated[str, Field(max_length=512)] = ""
    """Folder in the volume."""

    read_only: bool = False
    """Mount it to be read alone."""

    rules = (
        Rule(
            f"!(self.mountPath in [{_own}] || self.mountPath.startsWith('/checkpoints/'))",
            lambda it: it.mount_path not in OWN_FOLDERS and not it.mount_path.startswith("/checkpoints/"),
            "mountPath",
            "the pods mount something of their own there: choose another folder",
        ),
    )
