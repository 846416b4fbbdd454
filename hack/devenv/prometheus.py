"""Unpacks Debian's Prometheus, whose promtool and server the tests of rules and dashboards run."""

import shutil
import tempfile
from pathlib import Path

from hack.devenv import apt
from hack.devenv.places import BIN
from hack.devenv.shell import ENVIRONMENT, run
from hack.devenv.steps import say, step

PROGRAMS = ("prometheus", "promtool")


def missing() -> list[str]:
    """The programs that neither PATH nor the setup's own directory has."""
    return [name for name in PROGRAMS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]


@step("prometheus", "unpacking Prometheus and promtool for tests, unless PATH has them", present=lambda: not missing())
def prometheus() -> None:
    if missing():
        say("    Unpacking Debian's package prometheus")
        with tempfile.TemporaryDirectory() as folder:
            apt.unpack("prometheus", Path(folder))
            BIN.mkdir(parents=True, exist_ok=True)
            for name in PROGRAMS:
                run("install", "-m", "755", Path(folder) / "usr" / "bin" / name, BIN / name)
