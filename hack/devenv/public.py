"""Official images from public registries."""

import os

from hack.devenv.engine import image_exists
from hack.devenv.image_source import ImageSource
from hack.devenv.shell import run
from hack.devenv.steps import Step, step

DEBIAN = "debian:bookworm-slim"
NODE = "kindest/node:v1.34.8"
"""Released with kind 0.32. Without a digest, so that a mirror may serve it."""
REGISTRY = "registry:3"
REGISTRY_ENVIRONMENT = {
    "REGISTRY_HTTP_ADDR": "0.0.0.0:5001",
    # With its cache, the registry would report deleted layers as present, and a push would not upload them.
    "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "none",
}

STEPS: dict[str, Step] = {}


def base() -> str:
    """The base image. Behind a TLS proxy with its own certificate authority, the image must contain this authority."""
    return os.environ.get("RESNEXT_BASE_IMAGE") or DEBIAN


def _register(name: str, image: str) -> None:
    @step(
        name,
        f"pulling {image}",
        needs=("docker",),
        inputs=lambda: [image],
        present=lambda: image_exists(image),
        steps=STEPS,
    )
    def pull() -> None:
        # An image of RESNEXT_BASE_IMAGE may exist on this machine only.
        if not image_exists(image):
            run("docker", "pull", image)


for _name, _image in {"debian": base(), "node": NODE, "registry-image": REGISTRY}.items():
    _register(_name, _image)

PUBLIC = ImageSource(
    says="Images are pulled from public registries",
    base=base(),
    node=NODE,
    registry=REGISTRY,
    registry_data="/var/lib/registry",
    steps=STEPS,
    base_inputs=lambda: [base()],
    node_inputs=lambda: [NODE],
    registry_inputs=lambda: [REGISTRY, *REGISTRY_ENVIRONMENT.values()],
    kind_arguments=(f"--image={NODE}",),
    registry_environment=REGISTRY_ENVIRONMENT,
    tags=(NODE,),
)
