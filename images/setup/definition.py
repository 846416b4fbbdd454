"""Deletes the CRD of an earlier API version from the development cluster.

The API server rejects a CRD without the versions that it has stored. In a development cluster, the old CRD is deleted
together with its trainings; docs/operations.md describes how to keep them in other clusters.
"""

import json
import re

from images.setup.places import KUBECONFIG, ROOT
from images.setup.shell import output, run
from images.setup.steps import say

NAME = "resnexttrainings.resnext.dev"
MANIFEST = ROOT / "manifests" / "crd.yaml"


def removed_versions(stored: list[str], manifest: str) -> list[str]:
    """The stored versions that the manifest of the CRD does not have."""
    return sorted(set(stored) - set(re.findall(r"^  - name: (\S+)$", manifest, re.MULTILINE)))


def outdated() -> list[str]:
    """The versions that the cluster has stored and this repository's CRD does not have."""
    kubectl = ("kubectl", f"--kubeconfig={KUBECONFIG}", "--request-timeout=10s")
    found = output(*kubectl, "get", "crd", NAME, "--ignore-not-found", "--output=json")
    return removed_versions(json.loads(found)["status"]["storedVersions"], MANIFEST.read_text()) if found else []


def delete_outdated() -> None:
    if versions := outdated():
        say(f"    The cluster stores removed API versions ({', '.join(versions)}): deleting the CRD and all trainings")
        run("kubectl", f"--kubeconfig={KUBECONFIG}", "delete", "crd", NAME, "--timeout=60s")
