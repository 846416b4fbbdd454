"""Paths and contents of the generated files."""

import shutil
import tempfile
from pathlib import Path

from hack.codegen import chart, crd, dashboards, manifests, reference

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "resnext-operator"
MANIFESTS = ROOT / "manifests"


def generated_files() -> dict[Path, str]:
    """Every generated file with its current content."""
    made = {
        MANIFESTS / "crd.yaml": crd.definition(),
        CHART / "files" / "crd" / "spec.yaml": crd.spec(),
        CHART / "values.schema.json": chart.values_schema(CHART),
        **{CHART / "files" / "dashboards" / name: text for name, text in dashboards.files().items()},
        **{ROOT / "docs" / "reference" / name: text for name, text in reference.pages(CHART).items()},
    }
    # Rendered from a copy of the chart with the files above, because those in the tree may be stale.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / CHART.name
        shutil.copytree(CHART, copy)
        for path, content in made.items():
            if path.is_relative_to(CHART):
                (copy / path.relative_to(CHART)).parent.mkdir(parents=True, exist_ok=True)
                (copy / path.relative_to(CHART)).write_text(content)
        made[MANIFESTS / "base" / "install.yaml"] = manifests.install(copy, *manifests.IMAGES.values())
        for values in sorted(MANIFESTS.glob("components/*/values.yaml")):
            made[values.with_name("objects.yaml")] = manifests.added_objects(copy, values)
    return made
