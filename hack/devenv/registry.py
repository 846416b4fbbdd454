"""An image registry on this machine. A push uploads only changed layers; `kind load` would copy 3 GB to each node."""

import re
import time
import urllib.error
import urllib.request
from http import HTTPStatus

from hack.devenv.choice import image_source
from hack.devenv.engine import container_runs
from hack.devenv.places import CACHE, REGISTRY
from hack.devenv.shell import CommandFailed, run
from hack.devenv.steps import step
from hack.devenv.unused import Contents, contents

NAME = "resnext-registry"
DATA = CACHE / "registry"
MIRRORS = CACHE / "mirrors"
"""Mounted into the nodes as containerd's certs.d directory."""
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        # Docker's containerd image store pushes an index, even for one platform.
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


def _get(path: str, method: str = "GET") -> bytes | None:
    """The body of the registry's response, or None if it responds with 404; raises OSError on any other error."""
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{path}", headers={"Accept": MANIFESTS}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return None
        raise


def answers() -> bool:
    try:
        return container_runs(NAME) and _get("") is not None
    except OSError:
        return False


def contents_of(reference: str) -> Contents | None:
    """What an image consists of, or None if the registry does not have its manifest."""
    name, target = _split(reference)
    manifest = _get(f"{name}/manifests/{target}")
    return None if manifest is None else contents(manifest, lambda digest: _get(f"{name}/manifests/{digest}"))


def holds(reference: str) -> bool:
    """Whether the registry has this image with all of its layers."""
    name, _ = _split(reference)
    try:
        found = contents_of(reference)
        return found is not None and all(_get(f"{name}/blobs/{blob}", "HEAD") is not None for blob in found.blobs)
    except OSError:
        return False


def _split(reference: str) -> list[str]:
    """Repository and tag or digest."""
    return re.split("[:@]", reference.removeprefix(f"{REGISTRY}/"), maxsplit=1)


@step(
    "registry",
    f"starting an image registry at {REGISTRY}",
    needs=("docker", "registry-image"),
    inputs=lambda: image_source().registry_inputs(),
    present=answers,
)
def registry() -> None:
    source = image_source()
    DATA.mkdir(parents=True, exist_ok=True)
    write_mirror()
    run("docker", "rm", "--force", NAME)
    port = REGISTRY.split(":")[1]
    run(
        *("docker", "run", "--detach", f"--name={NAME}", "--restart=unless-stopped"),
        # Published only on the loopback interface; the nodes use the network that they share with the registry.
        *(f"--publish=127.0.0.1:{port}:5001", f"--volume={DATA}:{source.registry_data}"),
        *(f"--env={name}={value}" for name, value in (source.registry_environment or {}).items()),
        source.registry,
    )
    for _ in range(40):
        if answers():
            return
        time.sleep(0.25)
    raise CommandFailed(f"the registry at {REGISTRY} does not respond: see `docker logs {NAME}`")


def write_mirror() -> None:
    folder = MIRRORS / REGISTRY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.toml").write_text(f'[host."http://{NAME}:5001"]\n  capabilities = ["pull", "resolve"]\n')
