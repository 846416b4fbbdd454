"""Checks whether NVIDIA DALI can be used, and selects the pipeline that uses it.

Only this module and the modules dali_* import DALI. Its readers and random numbers are not used: DALI gets the same
JPEGs and crop windows as tf.data, so both produce the same images in the same order and resume identically.
"""

import importlib.util
import logging
import os
from enum import StrEnum

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.input_pipeline import InputPipeline, Shard
from resnext_trainer.errors import TrainingError

log = logging.getLogger(__name__)

TRANSFER = "RESNEXT_DALI_TRANSFER"
"""Environment variable that replaces the default transfer, for benchmarks."""


class Transfer(StrEnum):
    """How batches pass between DALI and TensorFlow."""

    DLPACK = "dlpack"
    """Python passes each batch; DALI decodes on the device of the training."""
    PLUGIN_CPU = "plugin-cpu"
    """DALI's dataset for tf.data, which decodes on the CPU."""
    PLUGIN_GPU = "plugin-gpu"
    """DALI's dataset for tf.data, placed on the GPU. JPEGs are copied to the GPU and back before they are decoded,
    because such a dataset takes inputs on the GPU only."""


def loads() -> bool:
    """Whether DALI is installed and can be imported."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        return False
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def open_pipeline(config: Training, share: Shard) -> InputPipeline:
    """Opens the pipeline; raises TrainingError if DALI cannot be used."""
    if not loads():
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            "spec.training.data.pipeline: dali, but DALI cannot be imported: set pipeline to auto or tfdata",
        )
    transfer = _transfer(config.device)
    if transfer is Transfer.DLPACK:
        from resnext_trainer.data.pipelines.dali_dlpack import DaliDlpack

        return DaliDlpack(config, share)
    from resnext_trainer.data.pipelines.dali_plugin import DaliPlugin

    return DaliPlugin(config, share, gpu=transfer is Transfer.PLUGIN_GPU)


def _transfer(device: str) -> Transfer:
    if chosen := os.environ.get(TRANSFER):
        allowed = [transfer.value for transfer in Transfer if device == "gpu" or transfer is not Transfer.PLUGIN_GPU]
        if chosen not in allowed:
            raise TrainingError(
                ExitStatus.INVALID_CONFIGURATION,
                f"environment variable {TRANSFER}: {chosen}, but device {device} supports only {', '.join(allowed)}",
            )
        return Transfer(chosen)
    return Transfer.PLUGIN_CPU if device == "cpu" and _plugin_loads() else Transfer.DLPACK


def _plugin_loads() -> bool:
    """Whether DALI's TensorFlow plugin is installed and was compiled for this TensorFlow."""
    if importlib.util.find_spec("nvidia.dali_tf_plugin") is None:
        return False
    import tensorflow as tf

    try:
        import nvidia.dali.plugin.tf  # noqa: F401
    except (ImportError, OSError, tf.errors.NotFoundError) as error:
        log.warning(
            "DALI's TensorFlow plugin cannot be loaded (%s); DLPack is used instead: rebuild nvidia-dali-tf-plugin for "
            "TensorFlow %s with images/trainer/build-wheels",
            *(error, tf.__version__),
        )
        return False
    return True
