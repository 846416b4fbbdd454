"""What everything is called: children, labels, annotations, paths and ports."""

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
"""The scheduling gate of workers that wait until all pods of their training are admitted."""

OPERATOR = "resnext-operator"
"""The operator's own pods, by their label app.kubernetes.io/name, and the manager that the children's labels name."""

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
    """The labels of a training's child."""
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
    """The claim made from a template."""
    return f"{training}-checkpoints"


def worker(training: str, index: int, generation: int) -> str:
    """A worker pod; a pod stuck on a dead node must not block its successor's name, so generations are counted."""
    return f"{training}-worker-{index}-{generation}"


def launcher(training: str, attempt: int) -> str:
    return f"{training}-launcher-{attempt}"


@dataclass(frozen=True)
class PodName:
    """What the name of a training's pod says; labels can be changed, a name cannot."""

    role: str
    """worker or launcher."""
    number: int
    """Index of a worker, attempt of a launcher."""
    generation: int = 0


_POD_NAME = re.compile(
    r"-(?:worker-(?P<index>\d{1,4})-(?P<generation>\d{1,9})|launcher-(?P<attempt>\d{1,9}))", re.ASCII
)


def pod(training: str, name: str) -> PodName | None:
    """The parts of a pod's name; None if the operator gives no pod of this training such a name."""
    found = _POD_NAME.fullmatch(name.removeprefix(training)) if name.startswith(training) else None
    if found is None:
        return None
    if attempt := found["attempt"]:
        return PodName("launcher", int(attempt))
    return PodName("worker", int(found["index"]), int(found["generation"]))
