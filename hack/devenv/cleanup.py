"""Deletes what earlier builds of the project's images left in Docker, in the nodes and in the local registry.

Images that the cluster uses are kept. A failure is printed and does not fail the build.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from hack.devenv import registry, shell
from hack.devenv.choice import image_source
from hack.devenv.leftovers import CRD
from hack.devenv.nodes import CTR, NODES, kubectl
from hack.devenv.places import CACHE
from hack.devenv.shell import CommandFailed, output, run
from hack.devenv.steps import say
from hack.devenv.unused import outdated, references_in, stages, unreferenced

BUILDS = CACHE / "builds"
"""One file for each image, with the IDs of the images that its last build created or reused, and of those of earlier
builds that are not deleted yet."""


@contextmanager
def _optional(what: str) -> Iterator[None]:
    """Print a failure instead of raising it."""
    try:
        yield
    except Exception as error:
        say(f"    Warning: earlier {what} were not deleted; the next build tries again: {error}")


def delete_tags(reference: str) -> None:
    """Delete the tags of earlier builds in Docker; shared layers are kept."""
    repository, current = reference.rsplit(":", 1)
    with _optional(f"tags of {repository}"):
        tags = output("docker", "image", "ls", "--format", "{{.Tag}}", repository).split()
        if earlier := [f"{repository}:{tag}" for tag in tags if tag != current]:
            run("docker", "image", "rm", *earlier)


@contextmanager
def replacing_stages(name: str) -> Iterator[None]:
    """Build an image, and then delete untagged images of its earlier builds that the last build of no image uses."""
    try:
        yield
    finally:
        # A failed build has created images as well, and the next one may reuse them.
        with _optional("untagged images"):
            _record(name, _recorded(name) | stages(shell.logged()))
    with _optional("untagged images"):
        current = stages(shell.logged())
        used = current.union(*(_recorded(each.name) for each in BUILDS.iterdir() if each.name != name))
        _record(name, current | _delete_untagged(_recorded(name) - used))


def _delete_untagged(ids: set[str]) -> set[str]:
    """Delete those of the images that have neither a tag nor descendants; returns the IDs of those that are left."""
    while leaves := ids & set(output("docker", "image", "ls", "--quiet", "--filter=dangling=true").split()):
        # Keep their parents, which may be in use. A parent that is not in use is a leaf in the next iteration.
        run("docker", "image", "rm", "--no-prune", *leaves)
        ids = ids - leaves
    return ids & set(output("docker", "image", "ls", "--quiet", "--all").split())


def _recorded(name: str) -> set[str]:
    file = BUILDS / name
    return set(file.read_text().split()) if file.is_file() else set()


def _record(name: str, ids: set[str]) -> None:
    BUILDS.mkdir(parents=True, exist_ok=True)
    (BUILDS / name).write_text("\n".join(sorted(ids)))


def delete_images(current: Collection[str]) -> None:
    """Delete images in the nodes and in the registry that are neither current nor in use by the cluster."""
    with _optional("images in the nodes and in the registry"):
        kept = {*current, *_in_use()}
        for node in NODES:
            if names := outdated(output("docker", "exec", node, *CTR, "list"), kept):
                run("docker", "exec", node, *CTR, "remove", *names)
        _delete_blobs(current, kept)


def _in_use() -> set[str]:
    """The project's images that pods, Deployments and trainings name."""
    trainings = kubectl("get", "crd", CRD, "--ignore-not-found", "--output=name") and f",{CRD}"
    found = kubectl("get", f"pods,deployments{trainings}", "--all-namespaces", "--output=json", timeout=60)
    return references_in(json.loads(found)["items"])


def _delete_blobs(current: Collection[str], kept: Collection[str]) -> None:
    digests: set[str] = set()
    for reference in kept:
        found = registry.contents_of(reference)
        if found is None and reference in current:
            raise CommandFailed(f"the registry does not have {reference}")
        digests.update(*(found or ()))
    # In a container, because files that a container wrote are owned by root, and the caller may be another user.
    inside = ("docker", "run", "--rm", "--interactive", f"--volume={registry.DATA}:/data", "--workdir=/data")
    base = image_source().base
    files = output(*inside, base, "find", ".", "-type", "f").splitlines()
    if names := unreferenced(files, digests):
        run(*inside, base, "xargs", "rm", "--force", stdin="\n".join(names))
