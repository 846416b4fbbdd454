"""kubectl, helm and kind: those on PATH are used if they are new enough."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from hack.devenv.places import BIN, KIND
from hack.devenv.shell import CommandFailed, output

Version = tuple[int, int]

MINIMUM: Mapping[str, Version] = {
    "kubectl": (1, 33),  # one minor version older than the API server, as Kubernetes' version skew policy allows
    "helm": (4, 0),  # --force-conflicts
    "kind": (0, int(KIND.split(".")[1])),  # the node image is released with it
}
VERSION: Mapping[str, tuple[tuple[str, ...], str]] = {
    "kubectl": (("version", "--client", "--output=json"), r'"gitVersion":\s*"v(\d+)\.(\d+)'),
    "helm": (("version", "--short"), r"^v(\d+)\.(\d+)"),
    "kind": (("version",), r"^kind v(\d+)\.(\d+)"),
}
"""Arguments that print the version, and a pattern for its major and minor number."""


def missing(*names: str) -> list[str]:
    """The programs that are neither installed by the setup nor new enough on PATH."""
    return [name for name in names if not (BIN / name).is_file() and on_path(name) is None]


def on_path(name: str) -> Path | None:
    """The program on PATH that the setup did not install, if it is new enough."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = shutil.which(name, path=os.pathsep.join(each for each in folders if Path(each) != BIN))
    return Path(found) if found and (_version(Path(found)) or (0, 0)) >= MINIMUM[name] else None


def _version(program: Path) -> Version | None:
    """Major and minor version. None if the program fails or prints no version, as some wrapper scripts do."""
    arguments, pattern = VERSION[program.name]
    try:
        printed = re.search(pattern, output(program, *arguments, timeout=20))
    except (CommandFailed, OSError):
        return None
    return (int(printed[1]), int(printed[2])) if printed else None
