"""Paths and versions."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"


def _cache() -> Path:
    """The cache directory. It is outside the repository, so that a fresh clone can use it."""
    if chosen := os.environ.get("RESNEXT_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "resnext-operator"


CACHE = _cache()
BIN = CACHE / "bin"
LOGS = CACHE / "logs"
STAMPS = CACHE / "stamps"
WHEELS = CACHE / "wheels"
VOLUMES = CACHE / "volumes"
KUBECONFIG = CACHE / "kubeconfig"

KIND = "v0.32.0"
KWOK = "v0.8.0"

CLUSTER = "resnext"
REGISTRY = "localhost:5001"
"""The same reference works on this machine, through a published port, and in the nodes, through a containerd mirror."""
