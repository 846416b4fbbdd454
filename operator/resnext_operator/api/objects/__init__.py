"""Types of Kubernetes objects as JSON: of those that the operator creates, with the fields that it sets."""

from typing import Any

TrainingKey = tuple[str, str]
"""Namespace and name of a training."""

Manifest = dict[str, Any]
"""An object whose fields are not known: as a user wrote it, or as the API server sent it."""
