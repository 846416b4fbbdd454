"""Defaults of environment variables that libraries read on import; existing values are kept."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

# By default TensorFlow disables oneDNN on CPUs without AVX512-VNNI, where a step then takes 50 % longer.
_TENSORFLOW = {"TF_ENABLE_ONEDNN_OPTS": "1"}

# TensorFlow imports Keras when it is imported, which takes 1.5 s of its 4 s, and the trainer does not use Keras. With
# this variable, TensorFlow looks for Keras 2 (package tf_keras) instead, and continues without it.
_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"

# A waiting rank yields its core to the other ranks.
_YIELD = {"OMPI_MCA_mpi_yield_when_idle": "true"}
# On CPUs the Horovod thread interrupts the step once per cycle, every millisecond by default. Two ranks on two cores,
# 17 layers, 32 images of 32x32 per rank, two runs each: 401 and 442 images/s with neither setting, 498 and 403 with
# _YIELD, 508 and 515 with both.
_LONG_CYCLE = {"HOROVOD_CYCLE_TIME": "5"}
# Horovod copies, reduces, scales and copies back one buffer of this size after another. A buffer of 4 MiB stays in the
# cache between these passes; the default of 128 MiB does not. The 177 MB of resnext101-32x4d take 124 ms instead of
# 159 ms on two ranks.
_BUFFER_IN_CACHE = {"HOROVOD_FUSION_THRESHOLD": str(4 * 2**20)}

# The thread that launches GPU kernels otherwise belongs to the pool of the CPU operations, and waits behind the
# decoding of images (https://www.tensorflow.org/guide/gpu_performance_analysis).
_GPU_THREADS = {"TF_GPU_THREAD_MODE": "gpu_private"}
# Otherwise a failure of NCCL is reported without its cause ("unhandled system error").
_NCCL_WARNINGS = {"NCCL_DEBUG": "WARN"}

_SHOWN = (
    *("CUDA_", "DALI_", "HOROVOD_", "LD_PRELOAD", "NCCL_", "NVIDIA_TF32_", "OMP_", "OMPI_MCA_mpi_"),
    *("RANK_CPU_BINDING", "RESNEXT_DALI_TRANSFER", "TF_", "UCX_", "XLA_FLAGS"),
)
"""Prefixes of the variables that affect the speed of a training."""

_DEVICES = Path("/dev")


def set_tensorflow_defaults() -> None:
    """Must be called before TensorFlow is imported."""
    _set(_TENSORFLOW)
    if has_gpus():
        _set(_GPU_THREADS | _NCCL_WARNINGS)
    if importlib.util.find_spec("tf_keras") is None:
        _set({_LEGACY_KERAS: "1"})


def enable_keras() -> None:
    """Must be called, after TensorFlow is imported, before a package that uses Keras is imported.

    `tf.keras` then imports Keras 3 when it is first used.
    """
    if importlib.util.find_spec("tf_keras") is None:
        os.environ.pop(_LEGACY_KERAS, None)


def set_horovod_defaults(*, gpus: bool) -> None:
    """Must be called before Horovod is initialized. gpus: whether this machine has GPUs."""
    _set(_YIELD if gpus else _YIELD | _LONG_CYCLE | _BUFFER_IN_CACHE)


def for_rank(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with which a process must start to be one of several ranks on CPUs; otherwise the same variables.

    A rank that waits for the others then sleeps between two polls: see sleeping_yield.c. With GPUs the cores are idle
    anyway.
    """
    ranks = int(variables.get("OMPI_COMM_WORLD_SIZE", "1"))
    preloaded = variables.get("LD_PRELOAD", "").split(":")
    library = _sleeping_yield()
    if ranks == 1 or library is None or library in preloaded or has_gpus():
        return dict(variables)
    return {**variables, "LD_PRELOAD": ":".join(filter(None, (*preloaded, library)))}


def has_gpus() -> bool:
    """Whether this machine or pod has NVIDIA GPUs, without loading a library."""
    return any(_DEVICES.glob("nvidia[0-9]*"))


def variables_for_speed() -> dict[str, str]:
    """The variables of this process that affect the speed of a training, including those that the user sets."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SHOWN)}


def _sleeping_yield() -> str | None:
    """Path of the library; None if the package resnext-native is not installed."""
    try:
        import resnext_native
    except ImportError:
        return None
    return str(resnext_native.SLEEPING_YIELD) if resnext_native.SLEEPING_YIELD else None


def _set(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)
