"""What the two sources of images have in common: public registries, and a build from packages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hack.devenv.steps import Input, Step

PROVIDED = ("debian", "node", "registry-image")
"""The steps that each source has, and that other steps need."""


@dataclass(frozen=True)
class PodNetwork:
    """A pod network that is configured from outside the cluster."""

    assigned: Callable[[], bool]
    """Whether every node has a pod CIDR."""
    connect: Callable[[], None]
    """Configure all nodes. Can be repeated."""
    intact: Callable[[], bool]
    """Whether the configuration is still present after a restart."""


@dataclass(frozen=True)
class ImageSource:
    """The source of the images that this project does not define: Debian, nodes and registry."""

    says: str
    """How it obtains images, as the first half of a sentence."""
    base: str
    """The image of Debian 12 that the project's images are built on."""
    node: str
    registry: str
    registry_data: str
    """The directory in the registry's container where it stores images."""
    steps: Mapping[str, Step]
    """PROVIDED, and the steps that these need."""

    base_inputs: Callable[[], Sequence[Input]]
    node_inputs: Callable[[], Sequence[Input]]
    registry_inputs: Callable[[], Sequence[Input]]

    kind_arguments: tuple[str, ...] = ()
    node_fields: Mapping[str, str] | None = None
    """Fields of each node in kind's configuration."""
    registry_environment: Mapping[str, str] | None = None
    pod_network: PodNetwork | None = None
    """If None, kind's own pod network is used."""
    tags: tuple[str, ...] = ()
    """Tags that `clean` deletes."""
