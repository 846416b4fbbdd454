"""Paths and contents of the generated files."""

import shutil
import tempfile
from pathlib import Path

from hack.codegen import chart, crd, dashboards, reference

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "resnext-operator"


def generated_files() -> dict[Path, str]:
    """Every generated file with its current content."""
    made = {
        ROOT / "manifests" / "crd.yaml": crd.definition(keep=False),
        CHART / "files" / "crd" / "resnexttrainings.yaml": crd.definition(keep=True),
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
        made[ROOT / "manifests" / "install.yaml"] = chart.install(copy)
    return made
