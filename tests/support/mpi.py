"""mpirun on this machine, for trainings with several ranks."""

import importlib.util
import shutil

AVAILABLE = importlib.util.find_spec("horovod") is not None and shutil.which("mpirun") is not None
"""Whether Horovod is installed."""


def mpirun(ranks: int) -> list[str]:
    """Prefix of a command that starts ranks, even as root and on fewer cores than ranks."""
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-bind-to", "none", "-np", str(ranks)]
