"""Debian packages for this machine: said before they are installed, and one installation at a time."""

import os
import shutil
from threading import Lock

from images.setup.shell import CommandFailed, run
from images.setup.steps import say

_installing = Lock()
"""Steps run side by side, and dpkg refuses a second run beside the first."""


def install(*packages: str) -> None:
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandFailed(f"needed and not here: {names}. Install them, or run this as root on Debian")
    with _installing:
        say(f"    Installing from Debian: {names}")
        # Another apt-get of this machine may be at it.
        apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
        run(*apt, "update")
        run(*apt, "install", "-y", "--no-install-recommends", *packages)
