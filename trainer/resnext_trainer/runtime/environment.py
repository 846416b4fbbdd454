"""Defaults of environment variables that libraries read when they are loaded; a value that is set already is kept."""

import os
from collections.abc import Mapping

# TensorFlow's own default leaves oneDNN out on CPUs without AVX512-VNNI, where a step then takes half as long again.
_TENSORFLOW = {"TF_ENABLE_ONEDNN_OPTS": "1"}

# A rank that waits for the others leaves its core to them; with GPUs the cores idle anyway.
_YIELD = {"OMPI_MCA_mpi_yield_when_idle": "true"}
# On CPUs Horovod's own thread takes a core from the step at each of its cycles, a millisecond each unless told
# otherwise. Two ranks on two cores, 17 layers, 32 images of 32x32 each: 401 and 442 images/s, 498 and 403
# with _YIELD, 508 and 515 with both, in two rounds.
_LONG_CYCLE = {"HOROVOD_CYCLE_TIME": "5"}


def set_tensorflow_defaults() -> None:
    """To be called before TensorFlow is imported."""
    _set(_TENSORFLOW)


def set_horovod_defaults(*, gpus: bool) -> None:
    """To be called before Horovod is initialized. `gpus`: whether this machine has any."""
    _set(_YIELD if gpus else _YIELD | _LONG_CYCLE)


def _set(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)
