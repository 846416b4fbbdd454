"""The steps that only the build from packages has."""

from hack.devenv.steps import Step

STEPS: dict[str, Step] = {}
