"""The commands of setting up."""

import argparse
import shutil
import sys
import time
from itertools import groupby
from pathlib import Path

# Imported for their steps, which each module registers.
from images.setup import cluster, debian, engine, node, products, registry, volumes, wheels
from images.setup.places import BIN, CACHE, KUBECONFIG, REGISTRY, VOLUMES
from images.setup.shell import CommandFailed, run
from images.setup.steps import STEPS, StepFailed, closure, perform, say

TARGETS = ("docker", "tools", "registry", "node", "cluster", "images", "cuda")
ANSWERS = {"env", "cache", "kubeconfig"}
DESCRIPTION = """\
Brings a bare machine to a cluster with images in it. Steps already done are skipped.

  docker    a Docker engine, installed from Debian where there is none, and started
  tools     kubectl, helm, kind and the registry's program
  kwok      kwok, which simulates nodes and pods in tests and benchmarks of the operator
  registry  an image registry on this machine
  node      the image of the cluster's nodes
  cluster   a kind cluster of two nodes, with shared volumes; restarted if stopped
  images    operator, trainer-cpu and monitoring, built and pushed
  cuda      the trainer's image for NVIDIA GPUs, with a proof that its libraries load
  wheels    Horovod and DALI for the virtual environment of --python
  volumes   recycle released volumes
  image-ref NAME   print an image's reference (operator, trainer-cpu, trainer-cuda, monitoring)
  cache, kubeconfig   print paths
  env       print shell lines that set PATH and KUBECONFIG
  down      delete the cluster and the registry's container; images and caches stay
  clean     delete everything that was made, and stop the engine that was started
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="images/setup", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="+", help="one or more of the above")
    parser.add_argument("--python", type=Path, help="the interpreter that `wheels` installs into")
    options = parser.parse_args(arguments)
    names: list[str] = options.target
    if names[0] == "image-ref":
        print("\n".join(reference(name) for name in names[1:]))
        return 0
    if names[0] in ("cache", "kubeconfig"):
        print({"cache": CACHE, "kubeconfig": KUBECONFIG}[names[0]])
        return 0
    began = time.monotonic()
    try:
        for are_steps, group in groupby(names, STEPS.__contains__):
            if are_steps:
                perform(closure(group, STEPS))
            else:
                for name in group:
                    act(name, options.python, parser)
    except (StepFailed, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("  ✗ interrupted; steps that ended stay done")
        return 130
    if not set(names) <= ANSWERS:
        say(f"  {' '.join(names)}: {time.monotonic() - began:.0f} s in all")
    return 0


def act(name: str, python: Path | None, parser: argparse.ArgumentParser) -> None:
    """The commands that are no steps: they are for doing again."""
    match name:
        case "env":
            print(f'export PATH="{BIN}:$PATH" KUBECONFIG="{KUBECONFIG}"')
        case "cache":
            print(CACHE)
        case "kubeconfig":
            print(KUBECONFIG)
        case "volumes":
            say(f"  {volumes.reset()} volumes emptied")
        case "wheels":
            if python is None:
                parser.error("wheels needs --python, the interpreter of a virtual environment with TensorFlow")
            wheels.install(python)
        case "down":
            down()
        case "clean":
            clean()
        case _:
            parser.error(f"unknown target {name!r}; known are {', '.join(TARGETS)} and those of --help")


def reference(name: str) -> str:
    if name not in products.PRODUCTS:
        raise SystemExit(f"no image is named {name!r}; there are {', '.join(products.PRODUCTS)}")
    return products.PRODUCTS[name].reference


def down() -> None:
    if engine.answers():
        if (BIN / "kind").is_file():
            cluster.remove()
        run("docker", "rm", "--force", registry.NAME)
    for name in ("cluster", "registry"):
        STEPS[name].stamp.unlink(missing_ok=True)
    say("  ✓ the cluster is gone; images and caches stay")


def clean() -> None:
    down()
    if engine.answers():
        if engine.image_exists(debian.BASE):
            # Written by the containers' root, which whoever calls this need not be.
            folders = [f"/cache/{each.name}" for each in (registry.DATA, VOLUMES)]
            run("docker", "run", "--rm", f"--volume={CACHE}:/cache", debian.BASE, "rm", "-rf", *folders)
        patterns = (f"{REGISTRY}/resnext-*", "resnext-*", node.OFFICIAL, *node.TAGS.values())
        listing = ["docker image ls --format '{{.Repository}}:{{.Tag}}'"]
        listing += [f"--filter=reference='{each}'" for each in patterns]
        # By name, which only unties where another image is built on top; what is left without a name goes below.
        run("sh", "-c", f"{' '.join(listing)} | xargs -r docker image rm --force")
        run("docker", "image", "prune", "--force")
    engine.stop()
    if CACHE.exists():
        shutil.rmtree(CACHE)
    say(f"  ✓ {CACHE} is gone")
