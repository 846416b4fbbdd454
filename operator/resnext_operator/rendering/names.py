"""Names of child objects, labels, annotations, paths and ports."""

import re
from dataclasses import dataclass

from resnext_operator.api.groupversion import GROUP
from resnext_operator.api.spec import CHECKPOINTS
from resnext_trainer.config.loading import RESOLVED, WRITTEN

TRAINING = f"{GROUP}/training"
ROLE = f"{GROUP}/role"
WORKER = f"{GROUP}/worker"
WORKER_GENERATION = f"{GROUP}/worker-generation"
ATTEMPT = f"{GROUP}/attempt"
WORKERS = f"{GROUP}/workers"
REVISION = f"{GROUP}/revision"
SSH_SECRET_UID = f"{GROUP}/ssh-secret-uid"
SPEC_HASH = f"{GROUP}/spec-hash"
MANAGED_BY = "app.kubernetes.io/managed-by"
GATE = f"{GROUP}/gang"
"""Scheduling gate of workers whose training still has pods to be admitted."""

OPERATOR = "resnext-operator"
"""Label app.kubernetes.io/name of the operator's pods, and app.kubernetes.io/managed-by of child objects."""

SSH_PORT = 2222
HEALTH_PORT = 9429
METRICS_PORT = 9430

CONFIG_DIR = "/etc/resnext/config"
CONFIG_FILE, WRITTEN_FILE = RESOLVED, WRITTEN
KEYS_DIR = "/etc/resnext/ssh"
RUN_DIR = "/run/resnext"
DATA_DIR = "/data"
CHECKPOINTS_DIR = CHECKPOINTS


def labels(training: str, role: str | None = None) -> dict[str, str]:
    """Labels of a training's child object."""
    common = {
        "app.kubernetes.io/name": "resnext-training",
        MANAGED_BY: OPERATOR,
        TRAINING: training,
    }
    return {**common, ROLE: role} if role else common


def config_map_name(training: str) -> str:
    return f"{training}-config"


def secret_name(training: str) -> str:
    return f"{training}-ssh"


def claim_name(training: str) -> str:
    """Name of the claim that the operator creates from the template."""
    return f"{training}-checkpoints"


def worker(training: str, index: int, generation: int) -> str:
    """Name of a worker pod. The generation keeps a pod that is stuck on a dead node from blocking its successor."""
    return f"{training}-worker-{index}-{generation}"


def launcher(training: str, attempt: int) -> str:
    return f"{training}-launcher-{attempt}"


@dataclass(frozen=True)
class PodName:
    """Parts of a pod's name. Unlike labels, a name is immutable."""

    role: str
    """worker or launcher."""
    number: int
    """Index of a worker, attempt of a launcher."""
    generation: int = 0


_POD_NAME = re.compile(
    r"-(?:worker-(?P<index>\d{1,4})-(?P<generation>\d{1,9})|launcher-(?P<attempt>\d{1,9}))", re.ASCII
)


def pod(training: str, name: str) -> PodName | None:
    """The parts of a pod's name; None if it is not a name that the operator gives to pods of this training."""
    found = _POD_NAME.fullmatch(name.removeprefix(training)) if name.startswith(training) else None
    if found is None:
        return None
    if attempt := found["attempt"]:
        return PodName("launcher", int(attempt))
    return PodName("worker", int(found["index"]), int(found["generation"]))
