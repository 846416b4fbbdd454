"""Resource limits of the process."""

import resource
from contextlib import suppress

_OPEN_FILES = 65_536
"""Enough for any dataset, and low enough for programs that loop over all possible descriptors."""


def raise_open_files() -> None:
    """Raises the soft limit on open files to the hard limit, at most 65,536; containers often start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(OSError, ValueError):  # a sandbox may forbid it; OpenFiles then keeps fewer files open
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
