"""The cluster's definition of ResNeXtTraining, where an earlier version of the API stored it.

The API server rejects a definition without the versions that it has stored. In a cluster made for trying and testing,
the old definition is deleted with its trainings; docs/operations.md says how to keep them elsewhere.
"""

import json
import re

from images.setup.places import KUBECONFIG, ROOT
from images.setup.shell import output, run
from images.setup.steps import say

NAME = "resnexttrainings.resnext.dev"
MANIFEST = ROOT / "manifests" / "crd.yaml"


def removed_versions(stored: list[str], manifest: str) -> list[str]:
    """The stored versions that a definition's manifest lacks."""
    return sorted(set(stored) - set(re.findall(r"^  - name: (\S+)$", manifest, re.MULTILINE)))


def outdated() -> list[str]:
    """The versions that the cluster has stored and this tree's definition lacks."""
    kubectl = ("kubectl", f"--kubeconfig={KUBECONFIG}", "--request-timeout=10s")
    found = output(*kubectl, "get", "crd", NAME, "--ignore-not-found", "--output=json")
    return removed_versions(json.loads(found)["status"]["storedVersions"], MANIFEST.read_text()) if found else []


def delete_outdated() -> None:
    if versions := outdated():
        say(f"    The cluster's trainings are of {', '.join(versions)}, which is removed: deleting them")
        run("kubectl", f"--kubeconfig={KUBECONFIG}", "delete", "crd", NAME, "--timeout=60s")
