"""Installs or unpacks Debian packages on this machine, one at a time, and prints the names of installed ones first."""

import os
import shutil
from pathlib import Path
from threading import Lock

from hack.devenv.shell import CommandFailed, run
from hack.devenv.steps import say

# Another apt-get on this machine may hold the lock.
_APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
_installing = Lock()
"""Steps run in parallel, and dpkg allows only one process."""


def install(*packages: str) -> None:
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CommandFailed(f"missing packages: {names}. Install them, or run this command as root on Debian")
    with _installing:
        say(f"    Installing Debian packages: {names}")
        run(*_APT, "update")
        run(*_APT, "install", "-y", "--no-install-recommends", *packages)


def unpack(package: str, folder: Path) -> None:
    """Extract the files of a package without installing it, so that no service starts."""
    if shutil.which("apt-get") is None:
        raise CommandFailed(f"missing package: {package}. Install it, or run this command on Debian")
    with _installing:
        if os.geteuid() == 0:
            run(*_APT, "update")
        run("apt-get", "-qq", "download", package, cwd=folder)
    run("dpkg-deb", "--extract", next(folder.glob("*.deb")), folder)
