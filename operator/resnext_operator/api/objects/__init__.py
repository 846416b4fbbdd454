"""JSON types of the Kubernetes objects that the operator creates, with the fields that it sets."""

from typing import Any

TrainingKey = tuple[str, str]
"""Namespace and name of a training."""

Manifest = dict[str, Any]
"""A JSON object of unknown type, from a user or the API server."""
