"""Binds a rank to the CPUs next to its GPU, so that its memory and its copies to the GPU stay on one NUMA node.

mpirun cannot do this: it knows CPUs but not GPUs, and its round-robin order of NUMA nodes is not that of the GPUs.
NVIDIA's reference trainings bind ranks in the same way (gpu_affinity.py in NVIDIA/DeepLearningExamples).
"""

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import cpus
from resnext_trainer.runtime.gpu_metrics import import_nvml

SETTING = "RANK_CPU_BINDING"
"""Environment variable of the workers: `gpu` (default) or `none`."""

_MASK_WORDS = 16
"""64-bit words of NVML's CPU masks: 1,024 CPUs, the size of the kernel's masks."""


def bind_to_gpu(local_rank: int, local_size: int, gpus: int) -> None:
    """Binds this thread, and those that it starts later, to the CPUs next to GPU `local_rank`, if `choose` finds any.

    gpus: number of GPUs that TensorFlow sees. Raises TrainingError if the setting is invalid.
    """
    setting = os.environ.get(SETTING, "gpu")
    if setting not in ("gpu", "none"):
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION, f"environment variable {SETTING}: {setting!r}: must be gpu or none"
        )
    # With CUDA_VISIBLE_DEVICES, NVML and TensorFlow number the GPUs differently.
    if setting == "none" or "CUDA_VISIBLE_DEVICES" in os.environ:
        return
    near = _cpus_near_gpus(gpus)
    if len(near) >= local_size and (
        chosen := choose(os.sched_getaffinity(0), near[:local_size], local_rank, cpus.per_rank())
    ):
        os.sched_setaffinity(0, chosen)


def choose(
    allowed: AbstractSet[int], near: Sequence[AbstractSet[int]], local_rank: int, share: int
) -> AbstractSet[int] | None:
    """The allowed CPUs next to the GPU of a rank; None if binding changes nothing or takes CPU time from the ranks.

    near: CPUs next to the GPU of each rank of the pod. share: CPUs per rank; those of the NUMA node must suffice for
    all ranks with a GPU on it.
    """
    mine = allowed & near[local_rank]
    neighbors = sum(1 for other in near if allowed & other == mine)
    return mine if mine and mine < allowed and len(mine) >= share * neighbors else None


def described() -> str:
    """The CPUs that this process may run on, such as `0-15,64-79`."""
    ranges: list[list[int]] = []
    for cpu in sorted(os.sched_getaffinity(0)):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in ranges)


def _cpus_near_gpus(expected: int) -> list[set[int]]:
    """CPUs next to each GPU of the pod; empty without NVML, or if TensorFlow sees other GPUs, as with MIG."""
    nvml: Any = import_nvml()
    if nvml is None:
        return []
    try:
        nvml.nvmlInit()
        if nvml.nvmlDeviceGetCount() != expected:
            return []
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(expected)]
        return [_members(nvml.nvmlDeviceGetCpuAffinity(handle, _MASK_WORDS)) for handle in handles]
    except nvml.NVMLError:
        return []


def _members(words: Sequence[int]) -> set[int]:
    return {64 * index + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1}
