"""Hashes of desired objects, by which the operator recognises changes."""

import hashlib
import json

from resnext_operator.api.objects import Manifest
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


def with_spec_hash(manifest: Manifest) -> Manifest:
    """With the hash of the desired object, which shows whether a later one differs."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.SPEC_HASH: spec_hash(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def spec_hash(manifest: Manifest) -> str:
    """What was desired, as a short hash: what defaults and webhooks add does not count."""
    return content_hash(manifest)[:16]


def content_hash(content: Manifest) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
