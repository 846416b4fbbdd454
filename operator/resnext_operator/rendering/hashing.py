"""Hashes of desired objects, by which the operator recognises changes."""

import hashlib
import json
from collections.abc import Mapping

from resnext_operator.api.objects.shared import ManagedObject
from resnext_operator.api.training import Training
from resnext_operator.rendering import names


def pod_revision(training: Training) -> str:
    """The settings that pods are made from, as a short hash: pods of another are replaced.

    Only what the user wrote counts, so that no new version of the operator replaces the pods of all trainings.
    """
    fields = {"image", "image_pull_policy", "image_pull_secrets", "workers", "launcher"}
    written = training.spec.model_dump(mode="json", include=fields, exclude_defaults=True)
    written["workers"] = {key: value for key, value in written.get("workers", {}).items() if key != "replicas"}
    return content_hash(written)[:10]


def with_spec_hash(manifest: ManagedObject) -> ManagedObject:
    """With the hash of the desired object, which shows whether a later one differs."""
    hashed, metadata = manifest.copy(), manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.SPEC_HASH: spec_hash(manifest)}
    hashed["metadata"] = {**metadata, "annotations": annotations}
    return hashed


def spec_hash(manifest: Mapping[str, object]) -> str:
    """What was desired, as a short hash: what defaults and webhooks add does not count."""
    return content_hash(manifest)[:16]


def content_hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
