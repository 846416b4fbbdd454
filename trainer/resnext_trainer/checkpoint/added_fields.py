"""Fields of the recipe that earlier versions did not have, with the value that describes what those versions did.

Without them, a run of an earlier version would resume with the current defaults, which change the images.
"""

from collections.abc import Mapping
from typing import Any

ADDED: Mapping[str, Any] = {"data.resize.antialias": True, "data.fastDecode": False}
"""Values by field. Version 0.1 resized with antialiasing and decoded with the accurate DCT."""


def with_added_fields(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a stored provenance whose `config` has a value for each of these fields."""
    found = dict(stored)
    if isinstance(config := stored.get("config"), Mapping):
        for field, value in ADDED.items():
            config = _with_default(config, field.split("."), value)
        found["config"] = config
    return found


def _with_default(settings: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    below = settings.get(name, {} if rest else value)
    return {**settings, name: _with_default(below, rest, value) if rest and isinstance(below, Mapping) else below}
