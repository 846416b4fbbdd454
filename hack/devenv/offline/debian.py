"""The base of all images: Debian 12 from debootstrap, with the certificate authorities of this machine."""

import shutil
import tempfile
from pathlib import Path

from hack.devenv import apt
from hack.devenv.engine import build, image_exists
from hack.devenv.offline.steps import STEPS
from hack.devenv.places import CACHE
from hack.devenv.shell import CommandFailed, run
from hack.devenv.steps import step

BASE = "resnext-base:bookworm"
BOOTSTRAPPED = "resnext-debootstrap:bookworm"
SOURCES = Path(__file__).parent / "base"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@step(
    "debian",
    "creating the Debian 12 base image",
    needs=("docker",),
    inputs=lambda: [SOURCES, CERTIFICATES],
    present=lambda: image_exists(BASE),
    steps=STEPS,
)
def debian() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        context = Path(folder)
        debootstrap(context / "root", BOOTSTRAPPED)
        if not CERTIFICATES.is_file():
            raise CommandFailed(f"{CERTIFICATES} is missing: install the package ca-certificates")
        shutil.copy(CERTIFICATES, context)
        build(BASE, context, SOURCES / "Dockerfile", f"--build-arg=DEBIAN={BOOTSTRAPPED}")


def debootstrap(root: Path, tag: str) -> None:
    if shutil.which("debootstrap") is None and not Path("/usr/sbin/debootstrap").exists():
        apt.install("debootstrap")
    run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root)
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        run("sh", "-c", f'rm -rf "{root / waste}"/*')
    # Add the suites with updates, since debootstrap configures only one suite.
    (root / "etc/apt/sources.list").write_text(sources((root / "etc/apt/sources.list").read_text()))
    run("sh", "-c", f'tar -C "{root}" -c . | docker import - {tag}')
    run("rm", "-rf", root)


def sources(line: str) -> str:
    """The sources.list that debootstrap wrote, with the suites for updates and security updates."""
    kind, mirror, suite, *components = line.split()
    updates = (f"{mirror} {suite}-updates", f"{mirror}-security {suite}-security")
    return "".join(f"{kind} {place} {' '.join(components)}\n" for place in (f"{mirror} {suite}", *updates))
