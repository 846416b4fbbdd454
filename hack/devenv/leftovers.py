"""State of earlier installations in the development cluster that makes `helm upgrade` fail.

- The CRD of an earlier API version: the API server rejects a CRD without the versions that it has stored. The old CRD
  is deleted together with its trainings; docs/upgrading.md describes how to keep them in other clusters.
- A pending operation of a killed Helm process: Helm refuses any other operation as long as its record exists.
"""

import json
import re

from hack.devenv.places import KUBECONFIG, ROOT
from hack.devenv.shell import output, run
from hack.devenv.steps import say

CRD = "resnexttrainings.resnext.dev"
MANIFEST = ROOT / "manifests" / "crd.yaml"
KUBECTL = ("kubectl", f"--kubeconfig={KUBECONFIG}", "--request-timeout=10s")
PENDING = ("--namespace=resnext-system", "--selector=owner=helm,status in (pending-install,pending-upgrade)")


def exist() -> bool:
    """Whether the cluster has any state that must be deleted."""
    return bool(_outdated_versions() or _pending_operations())


def delete() -> None:
    """Deletes all of this state."""
    if versions := _outdated_versions():
        say(f"    The cluster stores removed API versions ({', '.join(versions)}): deleting the CRD and all trainings")
        run(*KUBECTL, "delete", "crd", CRD, "--timeout=60s")
    if names := _pending_operations():
        say(f"    A killed Helm process left {', '.join(names)}: deleting it")
        run(*KUBECTL, "delete", "secret", *PENDING)


def removed_versions(stored: list[str], manifest: str) -> list[str]:
    """The stored versions that the manifest of the CRD does not have."""
    return sorted(set(stored) - set(re.findall(r"^  - name: (\S+)$", manifest, re.MULTILINE)))


def _outdated_versions() -> list[str]:
    found = output(*KUBECTL, "get", "crd", CRD, "--ignore-not-found", "--output=json")
    return removed_versions(json.loads(found)["status"]["storedVersions"], MANIFEST.read_text()) if found else []


def _pending_operations() -> list[str]:
    names = output(*KUBECTL, "get", "secret", *PENDING, "--output=name")
    return [name.removeprefix("secret/") for name in names.split()]
