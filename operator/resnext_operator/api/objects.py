"""Types of Kubernetes objects as JSON, and of their keys."""

from typing import Any

Manifest = dict[str, Any]
TrainingKey = tuple[str, str]
"""Namespace and name of a training."""
