"""Chooses the source of images: public registries if one is reachable, otherwise a build from packages.

This is the only module of the common part that imports hack.devenv.offline.
"""

import os
from threading import Lock

from hack.devenv import engine
from hack.devenv.image_source import ImageSource
from hack.devenv.places import CACHE
from hack.devenv.public import DEBIAN, PUBLIC
from hack.devenv.shell import CommandFailed, succeeds
from hack.devenv.steps import say

VARIABLE = "RESNEXT_IMAGE_REGISTRY"
ANSWER = CACHE / "image-registry"

_asking = Lock()
"""Steps run in parallel, and the registry is checked once."""


def image_source() -> ImageSource:
    """The source of images. Docker must run, unless the answer is known."""
    return _source(_registry_answers())


def known() -> ImageSource | None:
    """The source of images, or None if it was never determined."""
    return image_source() if _forced() or ANSWER.is_file() else None


def announce() -> None:
    """Print the source and the reason in one sentence."""
    if forced := _forced():
        reason = f"because {VARIABLE} is {forced}"
    elif _registry_answers():
        reason = f"because {DEBIAN} can be pulled; {VARIABLE}=no overrides this"
    else:
        reason = f"because {DEBIAN} cannot be pulled; {VARIABLE}=yes overrides this"
    say(f"  {image_source().says}, {reason}.")


def _forced() -> str | None:
    chosen = os.environ.get(VARIABLE) or None
    if chosen not in (None, "yes", "no"):
        raise CommandFailed(f"{VARIABLE} is {chosen!r}: set it to yes or no, or unset it")
    return chosen


def _registry_answers() -> bool:
    """Whether a small public image can be pulled. The answer is stored, because it takes up to a minute."""
    if chosen := _forced():
        return chosen == "yes"
    with _asking:
        if not ANSWER.is_file():
            if not engine.answers():
                raise CommandFailed(
                    f"Docker is not reachable, so it is unknown whether images can be pulled: start Docker, "
                    f"or set {VARIABLE} to yes or no"
                )
            answer = succeeds("docker", "pull", "--quiet", DEBIAN, timeout=60)
            ANSWER.parent.mkdir(parents=True, exist_ok=True)
            ANSWER.write_text("yes" if answer else "no")
        return ANSWER.read_text() == "yes"


def _source(registry_answers: bool) -> ImageSource:
    if registry_answers:
        return PUBLIC
    from hack.devenv.offline.source import OFFLINE  # not needed on the normal path

    return OFFLINE
