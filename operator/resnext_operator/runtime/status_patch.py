"""Writes the status of a training."""

from typing import Any

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.objects import Manifest
from resnext_operator.api.status import Status
from resnext_operator.api.training import Training
from resnext_operator.runtime.client import MERGE_PATCH, KubeClient, path_of


async def patch_status(client: KubeClient, training: Training, status: Status) -> Manifest | None:
    """Patch the status if it differs from the stored one; returns the patched resource."""
    # Compared with the stored JSON, so that fields that could not be parsed are replaced or removed.
    changes = merge_patch(training.stored, status.to_json())
    if not changes:
        return None
    path = path_of(KIND, training.namespace, training.name, "status")
    # With the uid, the API server rejects the patch if another training of the same name exists now.
    body = {"metadata": {"uid": training.uid}, "status": changes}
    return await client.request("PATCH", path, body, content=MERGE_PATCH)


def merge_patch(old: Any, new: Any) -> Manifest:
    """The merge patch from `old` to `new`; empty if they are equal."""
    patch: Manifest = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if changes := merge_patch(before, value):
                patch[key] = changes
        elif value != before:
            patch[key] = value
    return patch
