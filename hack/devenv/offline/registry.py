"""The image of the local registry: a container with crane, compiled from Go modules."""

import shutil
import tempfile
from pathlib import Path

from hack.devenv.engine import build, image_exists
from hack.devenv.offline.steps import STEPS
from hack.devenv.offline.versions import CRANE
from hack.devenv.places import BIN, CACHE
from hack.devenv.steps import Input, step
from hack.devenv.tools import go_install

SOURCES = Path(__file__).parent / "registry"
IMAGE = f"resnext-registry:{CRANE}"


def inputs() -> list[Input]:
    return [SOURCES, CRANE]


@step(
    "crane",
    f"compiling crane {CRANE}, which serves the registry",
    inputs=lambda: [CRANE],
    present=lambda: (BIN / "crane").is_file(),
    steps=STEPS,
)
def crane() -> None:
    go_install(f"github.com/google/go-containerregistry/cmd/crane@{CRANE}")


@step(
    "registry-image",
    "building the image of the registry",
    needs=("docker", "crane"),
    inputs=inputs,
    present=lambda: image_exists(IMAGE),
    steps=STEPS,
)
def registry_image() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        shutil.copy(BIN / "crane", folder)
        build(IMAGE, Path(folder), SOURCES / "Dockerfile")
