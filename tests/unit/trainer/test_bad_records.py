"""Unusable records: skipped and logged up to data.maxBadRecordFraction, rejected above it."""

import numpy as np
import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.examples import PADDING
from resnext_trainer.data.input_pipeline import Shard, open_input_pipeline
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.data.sampling import Batches
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime.distributed import SingleProcess
from resnext_trainer.training.evaluate import evaluate
from tests.support.images import noise, uniform
from tests.support.pipelines import TRANSFERRED, select
from tests.support.runs import StopAfter, trained

GOOD = 61


def gray(shade):
    return uniform((shade, shade, shade), (64, 64))


def cut_short():
    """JPEG of noise that is truncated in its pixel data, which only decoding detects."""
    return noise(0, (64, 64))[:1500]


@pytest.fixture
def folder(tmp_path):
    """64 images: 61 valid ones with distinct gray levels, 3 apart, and three bad ones (a fraction of 0.047)."""
    images = [(gray(3 * number), 1 + number % 10) for number in range(GOOD)]
    images[7:7] = [(b"\x89PNG", 1)]
    images[20:20] = [(gray(0), 99)]
    images[40:40] = [(cut_short(), 1)]
    for split in ("train", "validation"):
        tfrecord.write(tmp_path / "data", split, images, 1)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _folder_is_made(tmp_path):
    (tmp_path / "data").mkdir()


@pytest.fixture
def named(pipeline, monkeypatch):
    """The value of data.pipeline for a pipeline of TRANSFERRED."""
    return select(pipeline, monkeypatch)


def config(folder, share, pipeline="tfdata", **changed):
    whole = {"cropArea": [1.0, 1.0], "cropRatio": [1.0, 1.0], "flip": False}
    data = {"path": str(folder), "maxBadRecordFraction": share, "pipeline": pipeline}
    model = {"classes": 10, "imageSize": 16}
    return resolve({"model": model, "batchSize": 8, "augmentation": whole, "data": data, "device": "cpu", **changed})


def shades(batches):
    """Numbers of the valid images, recovered from their gray levels, and labels."""
    images, labels = zip(*((images.numpy(), labels.numpy()) for images, labels in batches), strict=True)
    return [round(image.mean() / 3) for image in np.concatenate(images)], np.concatenate(labels).tolist()


def found(bad):
    return {(split, number) for split in tfrecord.SPLITS for number in range(64) if (split, number) in bad}


@pytest.mark.parametrize("pipeline", ["tfdata", *TRANSFERRED])
def test_pipeline_bad_records_skipped_batches_full(folder, caplog, named):
    """Bad records are logged once and replaced by good ones, so that every batch is full."""
    source = open_input_pipeline(config(folder, 0.05, named), Shard(0, 1))
    seen, labels = shades(source.train(0))
    assert len(seen) == 64
    assert set(seen) == set(range(GOOD))  # three of them are used twice
    assert labels == [number % 10 for number in seen]
    assert found(source.bad) == {("train", 7), ("train", 20), ("train", 40)}
    for words in ("image cannot be decoded", "label 99 is out of range"):
        assert any(f"{folder}/train-00000-of-00001 at byte" in line and words in line for line in caplog.messages)
    assert shades(source.train(0)) == (seen, labels)
    assert len(caplog.messages) == 3


def test_pipeline_two_ranks_match_one_rank_global_batch(folder):
    """With bad records, two ranks together read the images of one rank with the same global batch."""
    one, _ = shades(TfData(config(folder, 0.05), Shard(0, 1)).train(1))
    two = [shades(TfData(config(folder, 0.05, batchSize=4), Shard(rank, 2)).train(1))[0] for rank in (0, 1)]
    joined = [two[rank][4 * step + place] for step in range(8) for rank in (0, 1) for place in range(4)]
    assert joined == one


def test_evaluate_bad_records_not_counted(folder):
    """Evaluation counts only the good records."""
    source = TfData(config(folder, 0.05), Shard(0, 1))
    (accuracy,) = evaluate([lambda images: np.zeros((len(images), 10), np.float32)], source, SingleProcess())
    assert accuracy.images == GOOD


@pytest.mark.parametrize("share", [0.0, 0.04])
def test_pipeline_above_bad_record_limit_fails(folder, share):
    """More bad records than data.maxBadRecordFraction end the training; the message names file and offset."""
    with pytest.raises(TrainingError, match=r"train-00000-of-00001 at byte \d+") as caught:
        list(TfData(config(folder, share), Shard(0, 1)).train(0))
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    assert ("2 of 64" in caught.value.message or "3 of 64" in caught.value.message) == bool(share)


def test_bad_record_limit_applies_to_all_ranks_together(folder):
    """The limit holds for the sum over all ranks, not for each rank alone."""
    alone = [Batches(config(folder, 0.04, batchSize=8), Shard(rank, 2)) for rank in (0, 1)]
    alone[0].bad.add("train", 1, tfrecord.data_error("1"))
    alone[0].bad.add("train", 2, tfrecord.data_error("2"))
    alone[1].bad.add("train", 3, tfrecord.data_error("3"))
    with pytest.raises(
        TrainingError, match=r"3 of 64 train records are bad.*maxBadRecordFraction allows a fraction of 0\.04"
    ) as caught:
        alone[0].bad.check_together([rank.bad.marks for rank in alone])
    assert caught.value.collective


def test_bad_record_found_twice_counted_once(folder, caplog):
    """Two threads may find the same one: in its own batch, and as a replacement for its neighbor."""
    bad = Batches(config(folder, 0.04), Shard(0, 1)).bad
    for _ in range(3):
        bad.add("train", 1, tfrecord.data_error("damaged"))
    assert len(bad) == len(caplog.messages) == 1


def test_batches_only_bad_records_terminate(tmp_path):
    """A split without any good record is an error in training and padding only in validation."""
    for split in ("train", "validation"):
        tfrecord.write(tmp_path / "data", split, [(b"no image", 1)] * 16, 1)
    with pytest.raises(TrainingError, match="no training record"):
        list(Batches(config(tmp_path / "data", 1.0), Shard(0, 1)).train(0).prefetch())
    padded = list(Batches(config(tmp_path / "data", 1.0), Shard(0, 1)).validate().prefetch())
    assert {label for batch in padded for label in batch.labels} == {PADDING}


@pytest.mark.parametrize("pipeline", ["tfdata", *TRANSFERRED])
@pytest.mark.parametrize("byte", [3, 9, 500, -2], ids=["length", "its checksum", "image", "last checksum"])
def test_record_changed_byte_fails_checksum(tmp_path, caplog, named, byte):
    """A changed byte makes a record bad, even if its image can still be decoded."""
    folder = tmp_path / "data"
    for split in ("train", "validation"):
        tfrecord.write(folder, split, [(gray(number), 1 + number % 10) for number in range(64)], 1)
    shard, (offset, length) = folder / "train-00000-of-00001", np.loadtxt(folder / "train-00000-of-00001.idx", int)[5]
    content = bytearray(shard.read_bytes())
    content[offset + byte if byte >= 0 else offset + length + byte] ^= 1
    shard.write_bytes(content)
    sentence = f"{shard} at byte {offset}: its checksum does not match"
    source = open_input_pipeline(config(folder, 0.02, named), Shard(0, 1))
    assert len(list(source.train(0))) == 8
    assert found(source.bad) == {("train", 5)}
    assert sentence in caplog.text
    with pytest.raises(TrainingError, match=sentence) as caught:
        list(open_input_pipeline(config(folder, 0.0, named), Shard(0, 1)).train(0))
    assert caught.value.verdict is ExitStatus.INVALID_DATA


def test_metrics_bad_records_counted(few, folder):
    """resnext_trainer_bad_records_total counts the bad records of both splits."""
    telemetry = StopAfter()
    few |= {"data": {**few["data"], "path": str(folder), "maxBadRecordFraction": 0.05}, "epochs": 1}
    assert trained(few, telemetry=telemetry).verdict == "completed"
    registered = telemetry.metrics.value("bad_records_total")
    assert registered == 6  # three of each split
