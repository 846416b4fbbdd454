"""Finds ResNeXtTraining resources in a file as kubectl does, and validates their fields outside `spec` contents."""

import json
import re
from collections.abc import Iterator
from typing import Any

from resnext_trainer.config.manifest_yaml import InvalidManifest

GROUP, VERSION, KIND = "resnext.dev", "v1alpha2", "ResNeXtTraining"

SPEC_FIELDS = (
    *("training", "image", "imagePullPolicy", "imagePullSecrets", "workers", "launcher", "dataset", "checkpoints"),
    *("suspend", "managedBy", "runPolicy"),
)
"""Fields of `spec`, which the models of the operator define."""

_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    *("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "managedFields"),
    *("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    "selfLink",
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


def trainings(documents: list[Any]) -> list[dict[str, Any]]:
    """The ResNeXtTrainings among documents; other kinds are ignored. Raises InvalidManifest."""
    found = [each for each in resources(documents) if each["kind"] == KIND]
    for training in found:
        _check(training)
    return found


def resources(documents: list[Any]) -> list[dict[str, Any]]:
    """All resources, including those in lists (`kind: List`), as kubectl sends them. Raises InvalidManifest."""
    return [each for document in documents for each in _flattened(document)]


def _flattened(document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict) or not (isinstance(kind := document.get("kind"), str) and kind):
        raise InvalidManifest("kind: Required value: each document must be a Kubernetes resource")
    if not isinstance(version := document.get("apiVersion", ""), str | None):
        raise InvalidManifest(f"apiVersion: Invalid value: {json.dumps(version)}: must be a string")
    if "items" not in document:
        yield document
        return
    items = document["items"] or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidManifest("items: Invalid value: must be a list of resources")
    inherited = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")}
    for item in items:
        item = item if item.get("kind") or item.get("apiVersion") else item | inherited
        if not item.get("apiVersion"):
            raise InvalidManifest(f"apiVersion: Required value: each resource of a {kind} must have one")
        yield from _flattened(item)


def _check(training: dict[str, Any]) -> None:
    version, metadata, spec = (training.get(name) for name in ("apiVersion", "metadata", "spec"))
    if version != f"{GROUP}/{VERSION}":
        raise InvalidManifest(f"apiVersion: Invalid value: {json.dumps(version)}: must be {GROUP}/{VERSION}")
    if not isinstance(metadata, dict) or not isinstance(name := metadata.get("name"), str) or not name:
        raise InvalidManifest("metadata.name: Required value")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise InvalidManifest(
            f"metadata.name: Invalid value: {json.dumps(name)}: must consist of lower case letters, digits, - "
            "and ., and must start and end with a letter or digit"
        )
    namespace = metadata.get("namespace")
    if namespace is not None and not (isinstance(namespace, str) and _NAMESPACE.fullmatch(namespace)):
        raise InvalidManifest(
            f"metadata.namespace: Invalid value: {json.dumps(namespace)}: must consist of lower case letters, digits "
            "and -, and must start and end with a letter or digit"
        )
    for field in ("labels", "annotations"):
        _check_texts(f"metadata.{field}", metadata.get(field))
    if not isinstance(spec, dict):
        raise InvalidManifest("spec: Required value" if spec is None else "spec: Invalid value: must be a mapping")
    unknown = [
        *(field for field in training if field not in _FIELDS),
        *(f"metadata.{field}" for field in metadata if field not in _METADATA),
        *(f"spec.{field}" for field in spec if field not in SPEC_FIELDS),
    ]
    if unknown:
        raise InvalidManifest("\n".join(f'unknown field "{field}"' for field in unknown))


def _check_texts(field: str, texts: Any) -> None:
    if texts is None:
        return
    if not isinstance(texts, dict):
        raise InvalidManifest(f"{field}: Invalid value: must be a mapping of strings")
    for name, text in texts.items():
        if not isinstance(text, str):
            shown = json.dumps(text)
            raise InvalidManifest(f'{field}.{name}: Invalid value: {shown}: must be a string: quote it ("{shown}")')
        if field == "metadata.labels" and (len(text) > 63 or not _LABEL.fullmatch(text)):
            raise InvalidManifest(
                f"{field}.{name}: Invalid value: {json.dumps(text)}: must consist of at most 63 letters, digits, -, _ "
                "and ., and must start and end with a letter or digit"
            )
