"""JSON merge patches, as the API server applies them."""

from collections.abc import Mapping
from typing import Any

from resnext_operator.api.objects import Manifest


def merge_patch(target: Any, changes: Mapping[str, Any]) -> Manifest:
    """A target with changes, as in RFC 7396: None removes a field, objects are merged; no argument is modified."""
    result: Manifest = dict(target) if isinstance(target, Mapping) else {}
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value) if isinstance(value, Mapping) else value
    return result
