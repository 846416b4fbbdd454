"""Write everything that is made from something else: the CRD, the dashboard, install.yaml, the reference.

With --check nothing is written, and a file that is not what it would be made today is an error.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "charts"), str(ROOT / "operator"), str(ROOT / "trainer")]

import dashboards  # noqa: E402

from resnext_operator import crd  # noqa: E402
from resnext_operator.settings import Settings  # noqa: E402

CHART = ROOT / "charts" / "resnext-operator"
NAMESPACE = "resnext-system"
_MADE = "# Made by `make generate`; do not edit.\n"


def helm() -> str:
    """The helm on the PATH, or the one that the set-up has brought."""
    cache = Path(os.environ.get("RESNEXT_CACHE") or Path.home() / ".cache" / "resnext-operator")
    found = shutil.which("helm") or shutil.which("helm", path=str(cache / "bin"))
    if not found:
        raise SystemExit("helm is not there: `python3 images/setup tools` gets it")
    return found


def definition(keep: bool) -> str:
    """The CRD; keep: helm leaves it, and with it all trainings, when the chart is uninstalled."""
    manifest = crd.manifest()
    if keep:
        manifest["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    return _MADE + yaml.safe_dump(manifest, sort_keys=False, width=120)


def values_schema() -> str:
    """The schema of the chart's values, with the operator's settings as their class declares them."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"]["settings"] = Settings.chart_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def install(chart: Path) -> str:
    """What `helm install` would apply, with its namespace, for those without helm."""
    command = [helm(), "template", "resnext-operator", str(chart), "--namespace", NAMESPACE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    return f"{_MADE}---\n{yaml.safe_dump(namespace, sort_keys=False)}{done.stdout}"


def reference() -> str:
    """Every setting of a training's resource, as tables."""
    version = crd.manifest()["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    sections = "\n".join(_section("spec", spec))
    return f"<!-- Made by `make generate`; do not edit. -->\n# Settings of a ResNeXtTraining\n\n{sections}"


def _section(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's fields, then the tables of the objects in them."""
    yield f"## {path}\n"
    yield f"{schema.get('description', '')}\n"
    yield "| field | type | |\n|---|---|---|"
    for name, field in schema["properties"].items():
        # A bar would end the cell.
        said = field.get("description", "").replace("|", "\\|")
        required = " **Required.**" if name in schema.get("required", ()) else ""
        yield f"| `{name}` | {_kind(field)} | {said}{required} |"
    yield ""
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "").removeprefix(".")
        yield f"- `{field}`: {rule['message']}" if field else f"- {rule['message']}"
    if schema.get("x-kubernetes-validations"):
        yield ""
    for name, field in schema["properties"].items():
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _section(f"{path}.{name}" + ("[]" if "items" in field else ""), inner)


def _kind(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f"`{word}`" for word in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "items" in field:
        return f"list of {_kind(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_kind(field['additionalProperties'])}"
    bounds = [
        f"{sign} {field[bound]:g}"
        for bound, exclusive, signs in (
            ("minimum", "exclusiveMinimum", (">", "≥")),
            ("maximum", "exclusiveMaximum", ("<", "≤")),
        )
        if bound in field
        for sign in [signs[0] if field.get(exclusive) else signs[1]]
    ]
    return " ".join([str(field.get("type", "object")), ", ".join(bounds)]).strip()


def files() -> dict[Path, str]:
    """Every generated file and what should stand in it."""
    made = {
        ROOT / "manifests" / "crd.yaml": definition(keep=False),
        CHART / "files" / "crd" / "resnexttrainings.yaml": definition(keep=True),
        CHART / "values.schema.json": values_schema(),
        CHART / "files" / "dashboards" / "resnext.json": dashboards.resnext(),
        ROOT / "operator" / "REFERENCE.md": reference(),
    }
    # Rendered from a copy with the files above in it: those in the tree may be stale.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / CHART.name
        shutil.copytree(CHART, copy)
        for path, content in made.items():
            if path.is_relative_to(CHART):
                (copy / path.relative_to(CHART)).parent.mkdir(parents=True, exist_ok=True)
                (copy / path.relative_to(CHART)).write_text(content)
        made[ROOT / "manifests" / "install.yaml"] = install(copy)
    return made


def main() -> int:
    """Write the files, or check that they are fresh; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    stale = {path: text for path, text in files().items() if not path.is_file() or path.read_text() != text}
    for path, text in stale.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
    if check and stale:
        print("run `make generate`", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
