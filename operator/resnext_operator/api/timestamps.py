"""Timestamps in the format of the Kubernetes API."""

from datetime import datetime


def to_rfc3339(now: datetime) -> str:
    """RFC 3339 in UTC, whole seconds (metav1.Time)."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def to_rfc3339_millis(now: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, for delays of less than a few seconds."""
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
