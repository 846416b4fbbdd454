"""Hashes of desired objects, which the operator compares to detect changes."""

import hashlib
import json
from collections.abc import Mapping

from resnext_operator.api.objects.shared import ManagedObject
from resnext_operator.api.training import Training
from resnext_operator.rendering import names


def pod_revision(training: Training) -> str:
    """Short hash of the pod settings. Pods with a different revision are replaced.

    It covers only fields that the user set, so that an upgrade of the operator does not replace running pods.
    """
    fields = {"image", "image_pull_policy", "image_pull_secrets", "workers", "launcher"}
    written = training.spec.model_dump(mode="json", include=fields, exclude_defaults=True)
    written["workers"] = {key: value for key, value in written.get("workers", {}).items() if key != "replicas"}
    return content_hash(written)[:10]


def with_spec_hash(manifest: ManagedObject) -> ManagedObject:
    """A copy of the manifest with its hash as an annotation, which shows whether a later manifest differs."""
    hashed, metadata = manifest.copy(), manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.SPEC_HASH: spec_hash(manifest)}
    hashed["metadata"] = {**metadata, "annotations": annotations}
    return hashed


def spec_hash(manifest: Mapping[str, object]) -> str:
    """Short hash of the desired object. It does not cover fields that the API server or webhooks add."""
    return content_hash(manifest)[:16]


def content_hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
