"""The commands of the setup."""

import argparse
import shutil
import sys
import time
from itertools import groupby
from pathlib import Path

# Each of these modules registers its steps when it is imported.
from hack.devenv import choice, cluster, engine, products, prometheus, registry, tools, volumes, wheels  # noqa: F401
from hack.devenv.image_source import PROVIDED
from hack.devenv.places import BIN, CACHE, KUBECONFIG, REGISTRY, VOLUMES
from hack.devenv.shell import ENVIRONMENT, CommandFailed, run
from hack.devenv.steps import STEPS, StepFailed, closure, perform, say

TARGETS = ("docker", "tools", "registry", "node", "cluster", "images", "cuda")
ANSWERS = {"env", "cache", "kubeconfig"}
DESCRIPTION = """\
Create a kind cluster on this machine and build the project's images for it. Completed steps are skipped.

  docker    start Docker if it is not running, and install it from Debian if there is none
  tools     install kubectl, helm and kind, unless PATH has them in a version that is new enough
  prometheus  unpack Prometheus and promtool, which tests of rules and dashboards run, unless PATH has them
  kwok      install kwok, which simulates nodes and pods in tests and benchmarks of the operator
  registry  start an image registry
  node      pull or build the image of the cluster's nodes
  cluster   create a kind cluster with two nodes and shared volumes, or restart it if it is stopped
  images    build and push the images operator, trainer-cpu and monitoring
  cuda      build the trainer image for NVIDIA GPUs, and verify that its libraries load
  wheels    install Horovod and DALI into the virtual environment of --python
  volumes   recycle released volumes
  image-ref NAME      print an image reference (operator, trainer-cpu, trainer-cuda, monitoring)
  cache, kubeconfig   print paths
  env       print shell commands that set PATH and KUBECONFIG
  down      delete the cluster and the registry's container; keep images and caches
  clean     delete everything that the setup created, and stop the Docker engine that it started

Images of Debian, the nodes and the registry are pulled if an image registry is reachable, and are otherwise built from
Debian packages and Go modules. RESNEXT_IMAGE_REGISTRY=yes|no overrides the check. RESNEXT_BASE_IMAGE replaces
debian:bookworm-slim, for example with an image that has the certificate authority of a TLS proxy.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="hack/devenv", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="+", help="one or more of the targets above")
    parser.add_argument("--python", type=Path, help="interpreter that `wheels` installs into")
    options = parser.parse_args(arguments)
    names: list[str] = options.target
    if names[0] in ("cache", "kubeconfig"):
        print({"cache": CACHE, "kubeconfig": KUBECONFIG}[names[0]])
        return 0
    began = time.monotonic()
    try:
        if names[0] == "image-ref":
            print("\n".join(reference(name) for name in names[1:]))
            return 0
        for are_steps, group in groupby(names, {*STEPS, *PROVIDED}.__contains__):
            if are_steps:
                carry_out(list(group))
            else:
                for name in group:
                    act(name, options.python, parser)
    except (StepFailed, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("  ✗ interrupted; completed steps are not repeated")
        return 130
    if not set(names) <= ANSWERS:
        say(f"  {' '.join(names)}: {time.monotonic() - began:.0f} s in total")
    return 0


def carry_out(names: list[str]) -> None:
    """Perform the steps. Those that need images run after `docker`, because choosing their source needs Docker."""
    if not _need_images(names):
        perform(closure(names, STEPS))
        return
    perform(closure(["docker"], STEPS))
    choice.announce()
    perform(closure(names, {**STEPS, **choice.image_source().steps}), finished=["docker"])


def _need_images(names: list[str]) -> bool:
    """Whether the steps depend on the source of images."""
    return any(name in PROVIDED or _need_images(list(STEPS[name].needs)) for name in names)


def act(name: str, python: Path | None, parser: argparse.ArgumentParser) -> None:
    """Run a command that is not a step. Commands are never skipped."""
    match name:
        case "env":
            print(f'export PATH="{BIN}:$PATH" KUBECONFIG="{KUBECONFIG}"')
        case "cache":
            print(CACHE)
        case "kubeconfig":
            print(KUBECONFIG)
        case "volumes":
            say(f"  {volumes.reset()} volumes recycled")
        case "wheels":
            if python is None:
                parser.error("wheels requires --python, the interpreter of a virtual environment with TensorFlow")
            wheels.install(python)
        case "down":
            down()
        case "clean":
            clean()
        case _:
            parser.error(f"unknown target {name!r}; use {', '.join(TARGETS)} or another target in --help")


def reference(name: str) -> str:
    if name not in products.PRODUCTS:
        raise SystemExit(f"unknown image {name!r}; use one of {', '.join(products.PRODUCTS)}")
    return products.PRODUCTS[name].reference


def down() -> None:
    if engine.answers():
        if shutil.which("kind", path=ENVIRONMENT["PATH"]):
            cluster.remove()
        run("docker", "rm", "--force", registry.NAME)
    for name in ("cluster", "registry"):
        STEPS[name].stamp.unlink(missing_ok=True)
    say("  ✓ deleted the cluster; kept images and caches")


def clean() -> None:
    down()
    source = choice.known()
    if engine.answers() and source is not None:
        if engine.image_exists(source.base):
            # Files in these directories are owned by root, and the caller may be another user.
            folders = [f"/cache/{each.name}" for each in (registry.DATA, VOLUMES)]
            run("docker", "run", "--rm", f"--volume={CACHE}:/cache", source.base, "rm", "-rf", *folders)
        listing = ["docker image ls --format '{{.Repository}}:{{.Tag}}'"]
        listing += [f"--filter=reference='{each}'" for each in (f"{REGISTRY}/resnext-*", *source.tags)]
        # Only removes the tag of an image that others are built on; prune removes untagged images.
        run("sh", "-c", f"{' '.join(listing)} | xargs -r docker image rm --force")
        run("docker", "image", "prune", "--force")
    engine.stop()
    if CACHE.exists():
        shutil.rmtree(CACHE)
    say(f"  ✓ deleted {CACHE}")
