"""`make install-yaml`: the chart's objects for `kubectl apply`, with your images, in build/install.yaml.

python -m hack.install_yaml --image REGISTRY/resnext-operator:TAG --trainer-image REGISTRY/resnext-trainer:TAG
"""

import argparse

from hack.codegen import manifests
from hack.codegen.files import CHART, ROOT

FILE = ROOT / "build" / "install.yaml"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m hack.install_yaml", description="Write build/install.yaml.")
    parser.add_argument("--image", required=True, help="image of the operator")
    parser.add_argument("--trainer-image", required=True, help="default image of the trainer")
    options = parser.parse_args()
    if not (options.image and options.trainer_image):
        parser.error("an image is empty: run make install-yaml IMAGE=REFERENCE TRAINER_IMAGE=REFERENCE")
    text = manifests.install(CHART, options.image, options.trainer_image)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text)
    print(f"wrote {FILE.relative_to(ROOT)}; next: kubectl apply --server-side -f {FILE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
