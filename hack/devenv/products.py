"""The project's images: built from this repository and pushed to the local registry.

The tag is a hash of the sources, so a code change triggers a rollout of the Deployments, and no pod runs stale code.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hack.devenv import cleanup
from hack.devenv.choice import image_source
from hack.devenv.cluster import CERTS
from hack.devenv.engine import build, image_exists
from hack.devenv.nodes import CTR, NODES
from hack.devenv.places import CACHE, REGISTRY, ROOT
from hack.devenv.registry import holds
from hack.devenv.shell import CommandFailed, output, run
from hack.devenv.steps import Input, digest, say, step

PROJECT = ("pyproject.toml", "requirements/build.txt", "LICENSE", "operator", "trainer")
NATIVE = ("requirements/native.txt", "requirements/source.txt")
CUDA = ("requirements/trainer-cuda.txt", *NATIVE, *PROJECT)


@dataclass(frozen=True)
class Product:
    """An image of the project."""

    name: str
    folder: str
    sources: tuple[str, ...]
    """Files and directories of the build context, relative to the root of the repository."""
    target: str | None = None

    @property
    def reference(self) -> str:
        return self.reference_of(ROOT)

    def reference_of(self, root: Path) -> str:
        return f"{REGISTRY}/resnext-{self.name}:{digest(self.inputs(root))}"

    def inputs(self, root: Path = ROOT) -> Iterable[Input]:
        files = (root / source for source in (f"images/{self.folder}", *self.sources))
        return [self.name, *image_source().base_inputs(), *files]


PRODUCTS = {
    product.name: product
    for product in (
        Product("operator", "operator", ("requirements/operator.txt", *PROJECT)),
        Product("trainer-cpu", "trainer", ("requirements/trainer.txt", *NATIVE, *PROJECT), target="cpu"),
        Product("trainer-cuda", "trainer", CUDA, target="cuda"),
        Product("trainer-cuda-proof", "trainer", CUDA, target="cuda-proof"),
        Product("monitoring", "monitoring", ()),
    )
}
PUSHED = ("operator", "trainer-cpu", "monitoring")


def make(product: Product) -> str:
    """Build the image from a copy of its sources, and return its reference.

    Other files of the repository cannot get into the image, and edits during the build do not change it.
    """
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        context = Path(folder)
        for source in (*product.sources, f"images/{product.folder}"):
            _copy(ROOT / source, context / source)
        reference = product.reference_of(context)
        if not image_exists(reference):
            target = [f"--target={product.target}"] if product.target else []
            dockerfile = context / "images" / product.folder / "Dockerfile"
            with cleanup.replacing_stages(product.name):
                build(reference, context, dockerfile, f"--build-arg=BASE={image_source().base}", *target)
        return reference


def _copy(source: Path, target: Path) -> None:
    """Copy files without compiled Python."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "-a", source, target)
    if target.is_dir():
        run("find", target, "-name", "__pycache__", "-prune", "-exec", "rm", "-rf", "{}", "+")


def _register(product: Product) -> None:
    @step(
        f"image-{product.name}",
        f"building and pushing the image {product.name}",
        needs=("debian", "registry"),
        inputs=product.inputs,
        present=lambda: holds(product.reference),
    )
    def image() -> None:
        reference = make(product)
        run("docker", "push", reference)
        cleanup.delete_tags(reference)


for _name in PUSHED:
    _register(PRODUCTS[_name])


def references() -> list[str]:
    return [PRODUCTS[name].reference for name in PUSHED]


def in_nodes() -> bool:
    try:
        return all(
            set(references()) <= set(output("docker", "exec", node, *CTR, "list", "--quiet").split()) for node in NODES
        )
    except CommandFailed:
        return False


@step(
    "images",
    "pulling the images on every node",
    needs=("cluster", *(f"image-{name}" for name in PUSHED)),
    inputs=references,
    present=in_nodes,
)
def images() -> None:
    for reference in references():
        for node in NODES:
            run("docker", "exec", node, *CTR, "pull", f"--hosts-dir={CERTS}", reference)
    cleanup.delete_images(references())


@step(
    "cuda",
    "building and verifying the trainer image for NVIDIA GPUs (15 GB of disk, no GPU needed)",
    needs=("debian",),
    inputs=PRODUCTS["trainer-cuda"].inputs,
    present=lambda: image_exists(PRODUCTS["trainer-cuda"].reference),
)
def cuda() -> None:
    reference = make(PRODUCTS["trainer-cuda"])
    proof = make(PRODUCTS["trainer-cuda-proof"])
    # The same restrictions as in pods.
    restricted = ("--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--shm-size=1g")
    say(output("docker", "run", "--rm", *restricted, proof, timeout=900))
    size = int(output("docker", "image", "inspect", "--format={{.Size}}", reference))
    say(f"    {reference}: {size / 1e9:.1f} GB")
    cleanup.delete_tags(reference)
    cleanup.delete_tags(proof)
