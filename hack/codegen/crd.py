"""The CustomResourceDefinition of the operator, as YAML."""

import yaml

from hack.codegen import NOTICE
from resnext_operator.api import crd


def definition(keep: bool) -> str:
    """The CRD. keep: helm keeps it, and with it all trainings, when the chart is uninstalled."""
    manifest = crd.manifest()
    if keep:
        manifest["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    return NOTICE + yaml.safe_dump(manifest, sort_keys=False, width=120)
