"""Installs Debian packages on this machine, one installation at a time, and prints their names first."""

import os
import shutil
from threading import Lock

from hack.devenv.shell import CommandFailed, run
from hack.devenv.steps import say

_installing = Lock()
"""Steps run in parallel, and dpkg allows only one process."""


def install(*packages: str) -> None:
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandFailed(f"missing packages: {names}. Install them, or run this command as root on Debian")
    with _installing:
        say(f"    Installing Debian packages: {names}")
        # Another apt-get on this machine may hold the lock.
        apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
        run(*apt, "update")
        run(*apt, "install", "-y", "--no-install-recommends", *packages)
