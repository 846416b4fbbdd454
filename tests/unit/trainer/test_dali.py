"""DALI's pipelines, one for each transfer to TensorFlow: order, resumption, bad records and memory, as with tf.data."""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.pipelines import dali
from resnext_trainer.data.pipelines.dali_dlpack import DaliDlpack
from resnext_trainer.data.pipelines.dali_plugin import DaliPlugin
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.data.sampling import epoch_order
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime.distributed import SingleProcess
from resnext_trainer.training.evaluate import evaluate
from tests.support.images import encode, noise

pytestmark = pytest.mark.skipif(not dali.loads(), reason="DALI is not installed")

RECORDS, BATCH = 30, 4
"""Seven batches; two records remain."""


@pytest.fixture(params=[DaliDlpack, DaliPlugin])
def pipeline(request):
    return request.param


def config(folder, **changed):
    data = {"path": str(folder), "pipeline": "dali", "maxBadRecordFraction": 0.5}
    model = {"classes": RECORDS, "imageSize": 16}
    return resolve({"model": model, "batchSize": BATCH, "device": "cpu", "data": data, **changed})


def picture(number):
    """Noise, of another size for each number."""
    values = np.random.default_rng(number).integers(0, 256, (50, 40 + number, 3), np.uint8)
    return encode(Image.fromarray(values), subsampling=0)


def written(folder, bad=()):
    """A dataset of distinct images; the pixel data of the bad ones are truncated."""
    records = [(picture(number), 1 + number) for number in range(RECORDS)]
    for number in bad:
        records[number] = (records[number][0][:1200], 1 + number)
    for split in tfrecord.SPLITS:
        tfrecord.write(folder, split, records, 1)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("good"))


def arrays(batches):
    return [(images.numpy(), labels.numpy()) for images, labels in batches]


def assert_equal(ours, theirs, tolerance=0):
    """The same labels, and the same images up to rounding."""
    assert len(ours) == len(theirs)
    for (images, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
        assert labels.tolist() == expected_labels.tolist()
        assert np.abs(images.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("consumed", [1, 3, 7])
def test_dali_resume_within_epoch_is_exact(folder, pipeline, consumed):
    """A new pipeline continues with the next batch, byte for byte; after the last batch there is none."""
    whole = arrays(pipeline(config(folder), Shard(0, 1)).train(2))
    assert len(whole) == 7
    again = arrays(pipeline(config(folder), Shard(0, 1)).train(2, consumed * BATCH))
    assert_equal(again, whole[consumed:])


def test_dali_abandoned_epoch_leaves_next_intact(folder, pipeline):
    """An epoch that is interrupted by a rollback or an evaluation affects no other."""
    source = pipeline(config(folder), Shard(0, 1))
    expected = arrays(source.train(1))
    started = source.train(0)
    next(started)
    validated = arrays(source.validate())
    assert_equal(arrays(source.train(1)), expected)
    assert len(validated) == 8
    started.close()
    assert_equal(arrays(source.train(1)), expected)


def places(*numbers):
    """The records at these places in the order of epoch 0."""
    return set(epoch_order(resolve({}).seed, 0, RECORDS)[list(numbers)].tolist())


BAD = {
    "first": places(0),
    "last of a batch and first of the next": places(3, 4),
    "two in one batch, one in a later one": places(9, 10, 14),
    "a whole batch": places(8, 9, 10, 11),
    "last": places(27),
    "not used in the epoch": places(29),
}


@pytest.mark.parametrize("bad", BAD)
def test_dali_bad_records_replaced_as_by_tfdata(tmp_path, pipeline, bad):
    """The same records are found to be bad, and the same images take their places, in training and evaluation."""
    written(tmp_path, BAD[bad])
    ours, theirs = (each(config(tmp_path), Shard(0, 1)) for each in (pipeline, TfData))
    assert_equal(arrays(ours.train(0)), arrays(theirs.train(0)), tolerance=1)
    assert_equal(arrays(ours.validate()), arrays(theirs.validate()), tolerance=1)
    for split in tfrecord.SPLITS:
        assert (ours.bad.marks[split] == theirs.bad.marks[split]).all()
    assert {number for number in range(RECORDS) if ("validation", number) in ours.bad} == BAD[bad]


def test_dali_bad_record_found_while_trainer_computes(tmp_path, folder, pipeline):
    """DALI decodes ahead and may report a bad record before it returns the batches in front of it."""
    written(tmp_path, places(9))
    whole, damaged = (pipeline(config(where), Shard(0, 1)) for where in (folder, tmp_path))
    found = []
    for batch in damaged.train(0):
        found.append(batch)
        time.sleep(0.1)
    expected = arrays(whole.train(0))
    del found[2], expected[2]  # of the bad record
    assert_equal(arrays(found), expected)
    assert len(damaged.bad) == 1


def test_dali_too_many_bad_records_rejected(tmp_path, pipeline):
    """The message names the shard and the byte."""
    written(tmp_path, places(9))
    data = {"path": str(tmp_path), "pipeline": "dali"}
    with pytest.raises(TrainingError, match=r"train-00000-of-00001 at byte \d+: the image cannot be decoded") as caught:
        list(pipeline(config(tmp_path, data=data), Shard(0, 1)).train(0))
    assert caught.value.verdict is ExitStatus.INVALID_DATA


def test_dali_evaluation_counts_each_good_record_once(tmp_path, pipeline):
    """The last batch is padded, and a bad record does not count."""
    written(tmp_path, {5})
    source = pipeline(config(tmp_path), Shard(0, 1))
    (accuracy,) = evaluate([lambda images: np.zeros((len(images), RECORDS), np.float32)], source, SingleProcess())
    assert accuracy.images == RECORDS - 1


@pytest.mark.parametrize("rank", [0, 1])
def test_dali_rank_reads_its_part_as_tfdata(folder, pipeline, rank):
    """The images are the same in evaluation as well, where the last batch is padded."""
    ours, theirs = (each(config(folder), Shard(rank, 2)) for each in (pipeline, TfData))
    assert_equal(arrays(ours.train(0)), arrays(theirs.train(0)), tolerance=1)
    assert_equal(arrays(ours.validate()), arrays(theirs.validate()), tolerance=1)


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def test_dali_memory_does_not_grow(tmp_path, pipeline):
    """Over 600 batches and 30 pipelines, the memory grows by less than a quarter of the size of all their JPEGs."""
    picture = noise(0, (400, 400))
    for split in tfrecord.SPLITS:
        tfrecord.write(tmp_path, split, [(picture, 1)] * 80, 1)
    crop = {"cropArea": [0.01, 0.02]}  # decoding a few rows is fast
    source = pipeline(config(tmp_path, augmentation=crop), Shard(0, 1))

    def run(epochs):
        for epoch in epochs:
            for _ in source.train(epoch):
                pass
        return resident_mib()

    begin = run(range(5))
    passed = 30 * 80 * len(picture) / 2**20
    assert run(range(5, 35)) - begin < passed / 4


class TestTransfer:
    """Selection of the transfer between DALI and TensorFlow."""

    def opened(self, folder, device="cpu"):
        return type(dali.open_pipeline(config(folder, device=device), Shard(0, 1)))

    def test_transfer_on_cpu_is_plugin(self, folder):
        """If the plugin is installed, it is the default on CPUs."""
        assert self.opened(folder) is DaliPlugin

    def test_transfer_on_gpu_is_dlpack(self, folder):
        """DLPack is the default on GPUs until the plugin has been measured on one."""
        assert self.opened(folder, "gpu") is DaliDlpack

    def test_transfer_plugin_not_installed_is_dlpack(self, folder, monkeypatch):
        """DALI works without its plugin, which has to be compiled."""
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "plugin" in name else find(name))
        assert self.opened(folder) is DaliDlpack

    def test_transfer_plugin_of_other_tensorflow_is_dlpack(self, folder, monkeypatch, caplog):
        """A plugin that was compiled for another TensorFlow does not load."""

        def undefined_symbol():
            raise tf.errors.NotFoundError(None, None, "undefined symbol")

        monkeypatch.delitem(sys.modules, "nvidia.dali.plugin.tf", raising=False)
        module = importlib.import_module("nvidia.dali_tf_plugin.dali_tf_plugin")
        monkeypatch.setattr(module, "load_dali_tf_plugin", undefined_symbol)
        assert self.opened(folder) is DaliDlpack
        assert "undefined symbol" in caplog.text
        assert f"rebuild nvidia-dali-tf-plugin for TensorFlow {tf.__version__}" in caplog.text

    @pytest.mark.parametrize(
        ("device", "name", "expected"),
        [
            ("cpu", "dlpack", DaliDlpack),
            ("cpu", "plugin-cpu", DaliPlugin),
            ("gpu", "plugin-cpu", DaliPlugin),
            ("gpu", "plugin-gpu", DaliPlugin),
            ("gpu", "dlpack", DaliDlpack),
        ],
    )
    def test_transfer_of_environment_used(self, folder, monkeypatch, device, name, expected):
        """Benchmarks select the transfer with an environment variable."""
        monkeypatch.setenv(dali.TRANSFER, name)
        assert self.opened(folder, device) is expected

    @pytest.mark.parametrize("name", ["plugin-gpu", "nonsense"])
    def test_transfer_unsupported_on_device_rejected(self, folder, monkeypatch, name):
        """The message names the variable and the supported values."""
        monkeypatch.setenv(dali.TRANSFER, name)
        with pytest.raises(TrainingError, match=f"RESNEXT_DALI_TRANSFER: {name}.*dlpack, plugin-cpu$") as caught:
            self.opened(folder)
        assert caught.value.verdict is ExitStatus.INVALID_CONFIGURATION
