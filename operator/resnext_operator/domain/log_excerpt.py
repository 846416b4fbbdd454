"""The last lines of a log, for the status."""

_LINES, _LINE = 20, 256


def last_lines(message: str) -> tuple[str, ...]:
    """The last lines of a pod's message, which may be its log: 2,048 bytes if a kubelet wrote it, or more."""
    return tuple(line[:_LINE] for line in message.splitlines() if line.strip())[-_LINES:]
