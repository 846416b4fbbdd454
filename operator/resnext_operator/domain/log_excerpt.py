"""The last lines of a log, for the status."""

_LINES, _LINE = 20, 256


def last_lines(message: str) -> tuple[str, ...]:
    """The last lines of a termination message, which may be an excerpt of the log (2,048 bytes from a kubelet)."""
    return tuple(line[:_LINE] for line in message.splitlines() if line.strip())[-_LINES:]
