"""The CustomResourceDefinition of the operator, as YAML."""

from typing import Any

import yaml

from hack.codegen import NOTICE
from resnext_operator.api import crd


def definition() -> str:
    """The whole definition, for kubectl."""
    return NOTICE + _dumped(crd.manifest())


def spec() -> str:
    """The definition from its key `spec` on, for the chart, which sets the metadata."""
    return _dumped({"spec": crd.manifest()["spec"]})


def _dumped(manifest: dict[str, Any]) -> str:
    return yaml.safe_dump(manifest, sort_keys=False, width=120)
