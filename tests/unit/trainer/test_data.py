"""Input data: shards and their indexes, batches, crops, and equality of the tf.data and DALI pipelines."""

import shutil

import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.crops import center_crop, jpeg_size
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.datasets.digits import prepare
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.data.sampling import Batches
from resnext_trainer.errors import TrainingError


@pytest.fixture
def damaged(digits_folder, tmp_path):
    return shutil.copytree(digits_folder, tmp_path / "data")


def refusal(folder, split="train"):
    with pytest.raises(TrainingError) as caught:
        tfrecord.open_split(str(folder), split)
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    return caught.value.message


def test_open_split_counts_records_of_index(digits_folder):
    """The number of records comes from the index files."""
    assert len(tfrecord.open_split(str(digits_folder), "train")) == 1438
    assert len(tfrecord.open_split(str(digits_folder), "validation")) == 359


def test_digits_prepare_existing_dataset_not_rewritten(digits_folder):
    """A second call of prepare writes nothing."""
    assert not prepare(digits_folder)


def test_index_offsets_match_tensorflow_records(digits_folder, tmp_path):
    """Indexing again gives the same file, with as many records as TensorFlow reads."""
    import tensorflow as tf

    file = digits_folder / "train-00000-of-00004"
    count = tfrecord.index(file, tmp_path / "again.idx")
    assert (tmp_path / "again.idx").read_text() == (digits_folder / f"{file.name}.idx").read_text()
    assert sum(1 for _ in tf.data.TFRecordDataset(str(file))) == count


def test_open_split_missing_directory_rejected(tmp_path):
    """The message names the missing directory."""
    assert "/nowhere" in refusal(tmp_path / "nowhere")


def test_open_split_no_shards_rejected(tmp_path):
    """The message names the file pattern that was not found."""
    assert "no train-* file" in refusal(tmp_path)


def test_open_split_missing_index_rejected_with_remedy(damaged):
    """The message names the missing index and the command that creates it."""
    (damaged / "train-00002-of-00004.idx").unlink()
    message = refusal(damaged)
    assert "train-00002-of-00004.idx is missing" in message
    assert "resnext-train data index" in message


@pytest.mark.parametrize("content", ["nonsense", "1 2 3"])
def test_open_split_invalid_index_rejected(damaged, content):
    """The message names the invalid index."""
    (damaged / "train-00001-of-00004.idx").write_text(content)
    assert "train-00001-of-00004.idx is not a valid index" in refusal(damaged)


def test_open_split_truncated_shard_rejected(damaged):
    """The message names the truncated shard and its record."""
    shard = damaged / "train-00003-of-00004"
    whole = shard.stat().st_size
    with shard.open("r+b") as stream:
        stream.truncate(whole - 10)
    message = refusal(damaged)
    assert f"{shard} is truncated" in message
    assert "record 358" in message
    with pytest.raises(TrainingError, match=r"record 358 at byte \d+ is incomplete"):
        tfrecord.index(shard, damaged / "new.idx")


def test_pipeline_undecodable_record_rejected(tmp_path):
    """The message names shard and offset of a record that is not an image."""
    tfrecord.write(tmp_path, "train", [(b"no image", 1)] * 4, 1)
    tfrecord.write(tmp_path, "validation", [(b"no image", 1)] * 4, 1)
    config = resolve({"data": {"path": str(tmp_path)}, "batchSize": 2})
    with pytest.raises(TrainingError, match=r"train-00000-of-00001 at byte \d+: the image cannot be decoded"):
        list(TfData(config, Shard(0, 1)).train(0, 0))


def test_batches_label_out_of_range_rejected(settings):
    """The message names the label and model.classes."""
    config = resolve({**settings, "model": {"classes": 9, "imageSize": 32}})
    with pytest.raises(TrainingError, match=r"label 10 is out of range; model.classes 9"):
        list(Batches(config, Shard(0, 1)).validate().prefetch())


def test_batches_order_depends_on_seed_and_epoch(settings):
    """The order is reproducible, and the same from any position within the epoch."""

    def labels(epoch, start=0, **changed):
        batches = Batches(resolve({**settings, **changed}), Shard(0, 1)).train(epoch, start * 64).prefetch()
        return [batch.labels.tolist() for batch in batches]

    assert labels(0) == labels(0)
    assert labels(0)[5:] == labels(0, start=5)
    assert labels(0) != labels(1)
    assert labels(0) != labels(0, seed=1)


def test_batches_two_ranks_share_global_batch(settings):
    """Two ranks split the batch that one rank with the same global batch reads."""
    one = Batches(resolve({**settings, "batchSize": 128}), Shard(0, 1)).train(2).prefetch()
    two = [Batches(resolve(settings), Shard(rank, 2)).train(2).prefetch() for rank in (0, 1)]
    for joined, first, second in zip(one, *two, strict=True):
        assert joined.jpegs == first.jpegs + second.jpegs
        assert joined.cuts == first.cuts + second.cuts
        assert joined.labels.tolist() == [*first.labels, *second.labels]


@pytest.mark.parametrize("size", [1, 3, 7])
def test_batches_validation_images_read_once(settings, size):
    """Over all ranks each validation image is read once, in the same number of batches per rank."""
    seen, lengths = [], set()
    for rank in range(size):
        batches = list(Batches(resolve(settings), Shard(rank, size)).validate().prefetch())
        lengths.add(len(batches))
        for batch in batches:
            seen += [jpeg for jpeg, label in zip(batch.jpegs, batch.labels, strict=True) if label >= 0]
    records = tfrecord.open_split(settings["data"]["path"], "validation")
    assert sorted(seen) == sorted(records.read(number)[0] for number in range(len(records)))
    assert len(lengths) == 1


def test_center_crop_stays_inside_image():
    """The window and the part to resize stay inside images of any size."""
    for height, width in [(375, 500), (1, 1), (20, 900), (32, 32), (4000, 3000)]:
        cut = center_crop(height, width, 0.875, 224)
        assert 0 <= cut.top <= height - cut.height
        assert 0 <= cut.left <= width - cut.width
        assert min(cut.roi) >= 0
        assert cut.roi[2] <= cut.height
        assert cut.roi[3] <= cut.width


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (333, 499), (256, 256), (1, 1), (9, 1000)])
@pytest.mark.parametrize("fraction", [0.875, 0.95, 1.0])
def test_center_crop_is_exact_center(height, width, fraction):
    """The part to resize is the centered square of the exact side, not rounded to pixels."""
    cut = center_crop(height, width, fraction, 224)
    side = min(height, width) * fraction
    top, left, bottom, right = cut.roi
    assert (bottom - top, right - left) == pytest.approx((side, side))
    assert cut.top + (top + bottom) / 2 == pytest.approx(height / 2)
    assert cut.left + (left + right) / 2 == pytest.approx(width / 2)


def test_jpeg_size_reads_header(digits_folder):
    """The size comes from the JPEG header."""
    jpeg, _ = tfrecord.open_split(str(digits_folder), "train").read(0)
    assert jpeg_size(jpeg) == (32, 32)
