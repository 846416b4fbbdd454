"""Times as the status holds them."""

from datetime import datetime


def to_rfc3339(now: datetime) -> str:
    """A time as the API writes it, whole seconds in UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def to_rfc3339_millis(now: datetime) -> str:
    """A time with milliseconds, for pauses of less than a few seconds."""
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
