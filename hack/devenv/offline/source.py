"""The source of images if no image registry is reachable: Debian packages and Go modules."""

from hack.devenv.image_source import ImageSource, PodNetwork
from hack.devenv.offline import debian, network, node, registry
from hack.devenv.offline.steps import STEPS

OFFLINE = ImageSource(
    says="Images are built from Debian packages and Go modules",
    base=debian.BASE,
    node=node.NODE,
    registry=registry.IMAGE,
    registry_data="/data",
    steps=STEPS,
    base_inputs=lambda: [debian.SOURCES],
    node_inputs=node.inputs,
    registry_inputs=registry.inputs,
    node_fields={"image": node.NODE},
    pod_network=PodNetwork(network.assigned, network.connect, network.intact),
    tags=("resnext-*", *node.TAGS.values()),
)
