"""A local registry that stands in for Docker Hub and registry.k8s.io, to test the normal path without them.

    python3 -m hack.devenv.offline.public_stand_in start CACHE
    python3 -m hack.devenv.offline.public_stand_in stop

`start` serves the images that the fallback built under the names of the official ones. Docker pulls them through
`registry-mirrors` in its configuration, which it reloads without a restart, and the nodes of a cluster whose files are
in CACHE pull them through containerd's certs.d directory. `stop` restores Docker's configuration. Both need root.
`stand_ins/prove` runs the normal path with it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from hack.devenv import engine, public
from hack.devenv.offline.node import TAGS
from hack.devenv.offline.source import OFFLINE
from hack.devenv.places import CACHE
from hack.devenv.shell import CommandFailed, log_to, output, run
from hack.devenv.steps import say

SOURCES = Path(__file__).parent / "stand_ins"
NAME = "resnext-public-stand-in"
ADDRESS = "localhost:5002"
DATA = CACHE / "public-stand-in"
DAEMON = Path("/etc/docker/daemon.json")
SAVED = CACHE / "daemon.json.saved"
KINDNET = "kindest/kindnetd:stand-in"
REGISTRIES = ("docker.io", "registry.k8s.io")
"""The registries that the nodes reach through containerd."""
PULLED = (public.DEBIAN, public.NODE, public.REGISTRY)


def repository(image: str) -> str:
    """The name of an official image in a mirror of its registry: Docker Hub's own images are in `library`."""
    name = image.removeprefix("registry.k8s.io/")
    return name if "/" in name or name != image else f"library/{name}"


def images() -> dict[str, str]:
    """The official names, and the images that stand in for them."""
    return {
        public.DEBIAN: OFFLINE.base,
        public.NODE: f"{NAME}:node",
        public.REGISTRY: f"{NAME}:registry",
        KINDNET: f"{NAME}:kindnetd",
        TAGS["pause"]: TAGS["pause"],
    }


def with_mirror(configuration: str) -> str:
    """Docker's configuration with the mirror; other settings are kept."""
    settings = json.loads(configuration or "{}")
    return json.dumps({**settings, "registry-mirrors": [f"http://{ADDRESS}"]}, indent=2) + "\n"


def hosts() -> str:
    """containerd's hosts.toml for a registry that the stand-in replaces."""
    return f'[host."http://{NAME}:5001"]\n  capabilities = ["pull", "resolve"]\n'


def start(cache: Path) -> None:
    build()
    serve()
    for official, own in images().items():
        target = f"{ADDRESS}/{repository(official)}"
        run("docker", "tag", own, target)
        run("docker", "push", target)
        run("docker", "image", "rm", target)
    for registry in REGISTRIES:
        folder = cache / "mirrors" / registry
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(hosts())
    if not SAVED.is_file():
        SAVED.write_text(DAEMON.read_text(encoding="utf-8") if DAEMON.is_file() else "")
    DAEMON.parent.mkdir(parents=True, exist_ok=True)
    DAEMON.write_text(with_mirror(SAVED.read_text()), encoding="utf-8")
    reload(mirrored=True)
    # Without local copies, so that they are pulled.
    for official in PULLED:
        if engine.image_exists(official):
            run("docker", "image", "rm", official)
    say(f"  ✓ {NAME} serves {', '.join(images())}")


def build() -> None:
    arguments = {"NODE": OFFLINE.node, "PROXY": TAGS["kube-proxy"], "REGISTRY": OFFLINE.registry}
    for image in (OFFLINE.base, *arguments.values()):
        if not engine.image_exists(image):
            raise CommandFailed(f"{image} is missing: run `RESNEXT_IMAGE_REGISTRY=no python3 hack/devenv cluster`")
    for target in ("node", "registry", "kindnetd"):
        options = (f"--build-arg={name}={image}" for name, image in arguments.items())
        engine.build(f"{NAME}:{target}", SOURCES, SOURCES / "Dockerfile", f"--target={target}", *options)


def serve() -> None:
    """Run the registry in the network of kind's nodes."""
    run("docker", "rm", "--force", NAME)
    DATA.mkdir(parents=True, exist_ok=True)
    port = ADDRESS.split(":")[1]
    run(
        *("docker", "run", "--detach", f"--name={NAME}", f"--publish=127.0.0.1:{port}:5001"),
        *(f"--volume={DATA}:/data", OFFLINE.registry),
    )
    run("docker", "network", "connect", "kind", NAME)


def reload(mirrored: bool) -> None:
    """Make Docker reload its configuration, and wait until it uses the mirror, or no longer does."""
    pid = engine.running() or int(Path("/var/run/docker.pid").read_text(encoding="utf-8"))
    os.kill(pid, signal.SIGHUP)
    for _ in range(40):
        if (ADDRESS in output("docker", "info", "--format={{.RegistryConfig.Mirrors}}")) == mirrored:
            return
        time.sleep(0.25)
    raise CommandFailed(f"Docker did not reload {DAEMON}")


def stop() -> None:
    if SAVED.is_file():
        saved = SAVED.read_text()
        # Docker keeps a setting that is missing in a configuration that it reloads, so the list is emptied first.
        DAEMON.write_text(json.dumps({"registry-mirrors": []} | json.loads(saved or "{}")), encoding="utf-8")
        reload(mirrored=False)
        if saved:
            DAEMON.write_text(saved, encoding="utf-8")
        else:
            DAEMON.unlink()
        SAVED.unlink()
    run("docker", "rm", "--force", NAME)
    for image in (*images().values(), *PULLED):
        if image.startswith(NAME) or image in PULLED:
            run("docker", "image", "rm", "--force", image)
    say(f"  ✓ removed {NAME}")


if __name__ == "__main__":
    log_to("public-stand-in")
    try:
        match sys.argv[1:]:
            case ["start", cache]:
                start(Path(cache))
            case ["stop"]:
                stop()
            case _:
                sys.exit(__doc__)
    except CommandFailed as error:
        sys.exit(str(error))
