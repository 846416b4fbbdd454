"""CPUs of this process and of each rank: the affinity mask, limited by the CPU limit of the container.

The affinity mask alone is not enough. A CPU limit is a quota of CPU time, which the mask does not show: a rank with a
limit of 16 CPUs on a node with 128 would start 128 threads per pool, use up its quota in an eighth of each period, and
be throttled for the rest.
"""

import functools
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")

_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "HOROVOD_LOCAL_SIZE")
"""Variables with the number of ranks on this machine, set by mpirun and horovodrun."""


@functools.cache
def per_rank() -> int:
    """CPUs of this process divided by the ranks of its pod, at least 1.

    Read once, because the rank may later be bound to some of the CPUs, which it then shares with fewer ranks.
    """
    return share(usable(os.sched_getaffinity(0), quota()), os.environ)


def usable(mask: set[int], limit: float | None) -> int:
    """Number of CPUs in the mask, or the limit, rounded up, if it is lower."""
    return len(mask) if limit is None else max(1, min(len(mask), math.ceil(limit)))


def share(cpus: int, variables: Mapping[str, str]) -> int:
    """One rank's share of the CPUs of its pod, at least 1."""
    ranks = next((int(variables[name]) for name in _LOCAL_SIZES if name in variables), 1)
    return max(1, cpus // max(1, ranks))


def quota(cgroup: Path = _CGROUP) -> float | None:
    """The CPU limit of the container in CPUs; None without a limit. Reads cgroup v2, or v1."""
    with suppress(OSError, ValueError):
        limit, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        limit, period = (
            (cgroup / "cpu" / name).read_text(encoding="utf-8") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
        return None if int(limit) < 0 else int(limit) / int(period)
    return None
