"""Bring-up of a rank: order, TensorFlow's settings, and errors."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from resnext_trainer.config.models import Precision
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime.bring_up import bring_up, bring_up_alone


def config(mode, device="cpu"):
    """Covers tf32 on a CPU as well, which users cannot configure."""
    return resolve({"device": device}).model_copy(update={"precision": Precision(mode=mode)})


@pytest.fixture
def tf32():
    """Restores TensorFlow's setting."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    yield tf.config.experimental.tensor_float_32_execution_enabled
    tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.mark.parametrize("mode", ["tf32", "fp32"])
def test_bring_up_sets_tf32_of_final_settings(tf32, mode):
    """The settings returned by `open_together`, such as those of a resumed run, override those that were read."""
    other = "fp32" if mode == "tf32" else "tf32"
    with bring_up(lambda: config(other, "auto"), lambda _, read: (config(mode, read.device), "source")) as runtime:
        assert (runtime.opened, runtime.config.device, runtime.communicator.size) == ("source", "cpu", 1)
        assert tf32() is (mode == "tf32")
    assert bring_up_alone(config(other)).device == "cpu"
    assert tf32() is (other == "tf32")


def test_bring_up_error_prevents_opening():
    """Nothing is opened unless all ranks have read their settings; the error is the same on all ranks."""
    opened = []

    def refuse():
        raise TrainingError(ExitStatus.NO_VALID_CHECKPOINT, "there is none")

    def open_together(_communicator, read):
        opened.append(read)
        return read, None

    with pytest.raises(TrainingError, match="there is none") as caught, bring_up(refuse, open_together):
        pass
    assert caught.value.collective
    assert not opened


def test_import_leaves_environment_unchanged():
    """The operator imports the trainer's configuration and must not set TensorFlow's variables."""
    code = "import os; before = dict(os.environ); import resnext_trainer.config.models; print(before == os.environ)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_trainer_does_not_import_keras():
    """Keras takes a second to import. A package that needs it, such as an unmodified Horovod, still imports it."""
    code = (
        "import sys; from resnext_trainer.runtime import environment\n"
        "environment.set_tensorflow_defaults()\n"
        "import tensorflow as tf, resnext_trainer.training.entrypoint\n"
        "print('keras' in sys.modules)\n"
        "environment.enable_keras()\n"
        "print(tf.keras.layers.BatchNormalization.__name__)"
    )
    clean = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "BatchNormalization"], done.stderr
