"""Determines the unused remains of earlier builds: names in containerd, blobs of the registry, images in Docker.

All functions are pure; cleanup.py reads their arguments and deletes what they return.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from hack.devenv.places import REGISTRY

FINISHED = ("Succeeded", "Failed")
"""Phases of pods and trainings that start no more containers."""


class Contents(NamedTuple):
    """Digests of what an image consists of in a registry."""

    manifests: frozenset[str]
    blobs: frozenset[str]
    """Configurations and layers."""


def references_in(objects: Iterable[dict[str, Any]]) -> set[str]:
    """The project's images to which unfinished Kubernetes objects refer in any field, by tag or by digest."""
    unfinished = [each for each in objects if each.get("status", {}).get("phase") not in FINISHED]
    return set(re.findall(rf"{re.escape(REGISTRY)}/resnext-[-\w.]+[:@][\w.:-]+", json.dumps(unfinished)))


def outdated(listing: str, kept: Collection[str]) -> list[str]:
    """Names in containerd's list of images that belong to earlier builds, whose layers fill the disk.

    The kubelet also names images by digest; like a tag, such a name keeps the layers.
    """
    digests = {name: digest for name, _, digest, *_ in map(str.split, listing.splitlines()[1:])}
    ours = {name for name in digests if name.startswith(f"{REGISTRY}/resnext-")}
    tagged = {name for name in digests if name in kept or not (name in ours or name.startswith("sha256:"))}
    used = {digests[name] for name in tagged}
    return sorted(name for name in digests.keys() - tagged if digests[name] not in used)


def contents(manifest: bytes, read: Callable[[str], bytes | None]) -> Contents:
    """What the manifest of an image, or an index of manifests, refers to.

    `read` returns the manifest with the given digest, or None if the registry does not have it.
    """
    parsed = json.loads(manifest)
    manifests = {f"sha256:{hashlib.sha256(manifest).hexdigest()}"}
    blobs = {each["digest"] for each in (parsed.get("config"), *(parsed.get("layers") or ())) if each}
    for each in parsed.get("manifests") or ():
        if (nested := read(each["digest"])) is not None:
            inner = contents(nested, read)
            manifests |= inner.manifests
            blobs |= inner.blobs
    return Contents(frozenset(manifests), frozenset(blobs))


def unreferenced(files: Iterable[str], digests: Collection[str]) -> list[str]:
    """Files in the registry's directory that belong to a digest other than these.

    crane names files after digests. The official registry stores each blob, and each link to a blob, in a directory
    that is named after the digest.
    Files without a digest in their path are kept.
    """
    digest = re.compile(r"\bsha256[:/](?:[0-9a-f]{2}/)?([0-9a-f]{64})\b")
    return [each for each in files if (found := digest.search(each)) and f"sha256:{found[1]}" not in digests]


def stages(log: str) -> set[str]:
    """Short IDs of the images that Docker's classic builder created or reused. BuildKit prints none and leaves none."""
    return set(re.findall(r"^ ---> ([0-9a-f]{12})$", log, re.MULTILINE))
