"""The base of all images: Debian from an image registry, or debootstrap if no registry is reachable."""

import os
import shutil
import tempfile
from pathlib import Path
from threading import Lock

from hack.devenv import apt
from hack.devenv.engine import build, image_exists
from hack.devenv.places import CACHE, OFFLINE
from hack.devenv.shell import CommandFailed, run, succeeds
from hack.devenv.steps import say, step

BASE = "resnext-base:bookworm"
OFFICIAL = "debian:bookworm-slim"
ANSWER = CACHE / "image-registry"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


_asking = Lock()
"""Steps run in parallel, and the registry is checked once."""


def registry_answers() -> bool:
    """Whether public images can be pulled. The result is cached; RESNEXT_IMAGE_REGISTRY=yes|no overrides it."""
    if chosen := os.environ.get("RESNEXT_IMAGE_REGISTRY"):
        return chosen == "yes"
    with _asking:
        if not ANSWER.is_file():
            answer = succeeds("docker", "pull", "--quiet", OFFICIAL, timeout=60)
            ANSWER.parent.mkdir(parents=True, exist_ok=True)
            ANSWER.write_text("yes" if answer else "no")
            if not answer:
                say("    No image registry is reachable: building images from Debian packages and Go modules")
        return ANSWER.read_text() == "yes"


@step(
    "debian",
    "creating the Debian 12 base image",
    needs=("docker",),
    inputs=lambda: [OFFLINE / "base", CERTIFICATES],
    present=lambda: image_exists(BASE),
)
def debian() -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        context = Path(folder)
        tag = OFFICIAL
        if not registry_answers():
            tag = "resnext-debootstrap:bookworm"
            debootstrap(context / "root", tag)
        if CERTIFICATES.is_file():
            shutil.copy(CERTIFICATES, context)
        else:
            run("docker", "run", "--rm", tag, "true")
            raise CommandFailed(f"{CERTIFICATES} is missing: install the package ca-certificates")
        build(BASE, context, OFFLINE / "base" / "Dockerfile", f"--build-arg=DEBIAN={tag}")


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
