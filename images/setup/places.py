"""Where things lie on this machine, and which versions are meant."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"


def _cache() -> Path:
    """Everything that may be thrown away, and nothing of it inside the clone: a fresh clone finds it again."""
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

KUBERNETES = "v1.34.4"
KIND = "v0.32.0"
CRANE = "v0.20.6"
KWOK = "v0.8.0"
COREDNS = "v1.12.1"  # what kubeadm asks for in this version of Kubernetes; so are the next two
ETCD = "3.6.5-0"
PAUSE = "3.10"  # what kind's containerd configuration names

CLUSTER = "resnext"
REGISTRY = "localhost:5001"
"""The same reference works on this machine (a published port) and in the nodes (a mirror of containerd)."""
