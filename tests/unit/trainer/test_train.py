"""Whole trainings: resuming, errors of configuration and devices, and mixed precision."""

import math

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import distributed
from tests.support.runs import StopAfter, newest, refused, trained


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{}, {"batchSize": 8, "gradientAccumulation": 2, "emaDecay": 0.9, "mixup": 0.2}])
def test_train_resumed_matches_uninterrupted(few, tmp_path, changed):
    """A training stopped twice and resumed ends with the weights of an uninterrupted one."""
    few |= changed
    report = trained(few)
    assert report.verdict == "completed"
    assert report.progress.step == report.progress.steps == 12
    whole = newest(few)

    few["checkpoint"] = {"path": str(tmp_path / "in-parts")}
    first = trained(few, stop_after=2)
    assert first.verdict == "stopped"
    assert first.progress.step == first.checkpoint.step == 3  # the request is exchanged in the next step
    assert trained(few, attempt=2, stop_after=6).verdict == "stopped"
    assert trained(few, attempt=3).verdict == "completed"
    parts = newest(few)
    assert parts[0] == whole[0]
    for name, array in whole[1].items():
        assert np.array_equal(array, parts[1][name]), name


@pytest.mark.slow
def test_train_resumes_with_other_batch_size(few):
    """The position is counted in images, so that the batch size may change within an epoch."""
    assert trained(few, stop_after=2).progress.epoch == 0.5  # 48 of 96 images
    report = trained(few | {"batchSize": 24}, attempt=2)
    assert (report.verdict, report.progress.step) == ("completed", 3 + 2 + 4)


def test_train_finished_run_finishes_at_once(few):
    """A finished training that is started again trains no step."""
    few |= {"targetTop1": 0.01, "epochs": 3}
    first = trained(few)
    assert (first.verdict, first.progress.epoch) == ("completed", 1.0)
    again = trained(few, attempt=2)
    assert (again.verdict, again.progress.step) == ("completed", first.progress.step)


def test_train_log_shows_cpus_and_variables(few, monkeypatch):
    """The log shows the settings that affect speed, including those that the user sets."""
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=eth1")
    telemetry = StopAfter(1)
    trained(few, telemetry=telemetry)
    (line,) = (
        line for line in telemetry.log.getvalue().splitlines() if " CPUs per rank; rank 0 may run on CPUs " in line
    )
    assert "environment: " in line
    assert "NCCL_SOCKET_IFNAME==eth1" in line


def test_train_nonfinite_fails_after_max_rollbacks(few):
    """A persistently non-finite loss ends the training after maxRollbacks; the message has the step."""
    few |= {"optimizer": {"learningRate": 1e6}, "maxRollbacks": 1}
    refusal = refused(few)
    assert refusal.verdict is ExitStatus.NON_FINITE_LOSS
    assert refusal.collective
    assert "at step " in refusal.message
    assert "after 1 rollbacks (maxRollbacks 1)" in refusal.message


def test_train_without_gpu_fails_with_no_gpu(settings):
    """A training that requests GPUs never runs on the CPU."""
    refusal = refused(settings | {"device": "gpu"})
    assert refusal.verdict is ExitStatus.GPU_UNAVAILABLE
    assert refusal.message.startswith("no GPU is usable: ")


def test_train_missing_driver_message_names_files(settings, monkeypatch):
    """TensorFlow itself reports nothing when libnvidia-ml.so.1 is missing."""
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
    monkeypatch.setattr(distributed, "_DRIVER_FILES", ("libc.so.6", "libcuda-of-no-machine.so.1"))
    message = refused(settings | {"device": "gpu"}).message
    assert "libcuda-of-no-machine.so.1 of the NVIDIA driver cannot be loaded" in message
    assert "libc.so.6" not in message


def test_train_cpu_build_message_names_cuda_image(settings):
    """A CPU image on a GPU node is an error of the spec, not of the node."""
    assert "built without CUDA: use the trainer's CUDA image" in refused(settings | {"device": "gpu"}).message


def test_train_unexpected_world_size_rejected(settings):
    """--world-size and --num-workers must match the ranks that were started."""
    assert refused(settings, world=2).verdict is ExitStatus.WORLD_SIZE_MISMATCH
    assert refused(settings, world=1, workers=2).verdict is ExitStatus.WORLD_SIZE_MISMATCH


def test_train_batch_larger_than_dataset_rejected(settings):
    """The message says to lower batchSize."""
    refusal = refused(settings | {"batchSize": 2000})
    assert refusal.verdict is ExitStatus.INVALID_CONFIGURATION
    assert "lower batchSize" in refusal.message


def test_train_checkpoint_of_other_model_rejected(few):
    """A run is not resumed with another number of classes."""
    trained(few, stop_after=1)
    few["model"] = {**few["model"], "classes": 11}
    assert refused(few).verdict is ExitStatus.INVALID_CONFIGURATION


def test_train_unwritable_directory_rejected_before_step_1(settings, tmp_path):
    """All ranks end alike, so that mpirun sees regular exits."""
    (tmp_path / "file").write_text("")
    settings |= {"checkpoint": {"path": str(tmp_path / "file" / "below")}, "data": {"format": "synthetic"}}
    telemetry = StopAfter()
    with pytest.raises(TrainingError, match="is a file, not a directory") as caught:
        trained(settings, telemetry=telemetry)
    assert (caught.value.verdict, caught.value.collective) == (ExitStatus.INVALID_CONFIGURATION, True)
    assert telemetry.heartbeat.step == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fp16", "bf16"])
def test_train_mixed_precision_with_mixup_stays_finite(settings, mode):
    """fp16 and bf16 with mixup and label smoothing give finite losses."""
    settings |= {"precision": {"mode": mode}, "mixup": 0.2, "labelSmoothing": 0.1, "batchSize": 8}
    settings["data"] = {"format": "synthetic", "syntheticImages": 24}
    report = trained(settings)
    assert report.verdict == "completed"
    assert report.progress.loss is not None
    assert math.isfinite(report.progress.loss)
