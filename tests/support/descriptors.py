"""Open file descriptors of this process."""

from contextlib import suppress
from pathlib import Path


def open_under(folder: Path) -> int:
    """Number of descriptors of files in `folder`. Descriptors that other tests left open are not counted."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since the listing
            count += descriptor.readlink().is_relative_to(folder)
    return count
