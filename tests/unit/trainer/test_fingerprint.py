"""Dataset fingerprint: which changes make another dataset."""

import os
import shutil
import time

import numpy as np
import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.data import fingerprint
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.fingerprint import Part
from resnext_trainer.data.input_pipeline import open_dataset


def of(path, form="tfrecord", classes=10):
    config = resolve({"data": {"path": str(path), "format": form}, "model": {"classes": classes}})
    return fingerprint.of(form, {split: open_dataset(config, split) for split in ("train", "validation")}, 0)


@pytest.fixture
def shards(few_digits, tmp_path):
    return shutil.copytree(few_digits, tmp_path / "data")


def test_fingerprint_copied_files_equal(shards, few_digits):
    """Paths and modification times are not part of the fingerprint."""
    for file in shards.iterdir():
        os.utime(file, (1, 1))
    assert of(shards).differences(of(few_digits)) == []
    assert of(shards).splits["train"].records == 96


def rename(shards, before, after):
    for suffix in ("", ".idx"):
        (shards / f"{before}{suffix}").rename(shards / f"{after}{suffix}")


def renamed(shards):
    rename(shards, "train-00001-of-00002", "train-00002-of-00002")
    rename(shards, "train-00000-of-00002", "train-00001-of-00002")
    return "dataset.train: was 96 records in 2 parts, is 96 records in 2 parts with different names or sizes"


def removed(shards):
    for suffix in ("", ".idx"):
        (shards / f"train-00001-of-00002{suffix}").unlink()
    rename(shards, "train-00000-of-00002", "train-00000-of-00001")
    return "dataset.train: was 96 records in 2 parts, is 48 records in 1 part"


def other_images(shards):
    records = tfrecord.open_split(str(shards), "validation")
    images = [records.read(number) for number in range(40)]
    tfrecord.write(shards, "validation", [(jpeg + bytes(7), label) for jpeg, label in images], 2)
    return "dataset.validation: was 40 records in 2 parts, is 40 records in 2 parts with different names or sizes"


@pytest.mark.parametrize("change", [renamed, removed, other_images])
def test_fingerprint_changed_shards_differ(shards, few_digits, change):
    """Names, number and sizes of shards count; the difference names the split."""
    sentence = change(shards)
    assert of(few_digits).differences(of(shards)) == [sentence]


def folder(path, counts):
    for split in ("train", "validation"):
        for name, count in counts.items():
            (path / split / name).mkdir(parents=True)
            for number in range(count):
                (path / split / name / f"{number}.jpg").write_bytes(b"never read")
    return path


@pytest.mark.parametrize(
    ("changed", "same"), [({"cat": 2, "dog": 3}, True), ({"cat": 3, "dog": 2}, False), ({"cat": 2, "cow": 3}, False)]
)
def test_fingerprint_folders_by_class_and_count(tmp_path, changed, same):
    """Class names and image counts are compared; no image is read."""
    before, after = folder(tmp_path / "a", {"cat": 2, "dog": 3}), folder(tmp_path / "b", changed)
    assert (of(before, "folder", 2).differences(of(after, "folder", 2)) == []) == same


def test_fingerprint_synthetic_by_image_count():
    """Synthetic data has no files, only a number of images."""
    before, after = fingerprint.of("synthetic", {}, 64), fingerprint.of("synthetic", {}, 128)
    assert before.differences(fingerprint.of("synthetic", {}, 64)) == []
    assert before.differences(after) == ["dataset.train: was 64 records in 1 part, is 128 records in 1 part"]


def test_fingerprint_other_format_differs(shards):
    """Two formats differ even with equal counts."""
    assert of(shards).differences(fingerprint.of("synthetic", {}, 96)) == ["dataset: format was tfrecord, is synthetic"]


class Named:
    """A split with these parts."""

    def __init__(self, *parts):
        self._parts = parts

    def parts(self):
        return [Part(*part) for part in self._parts]


@pytest.mark.parametrize(
    "other", [(("a 1", 2), ("b", 1)), (("a", 1), ("2\n1 b", 1)), (("a", 2), ("b", 1)), (("\udcff", 1), ("b", 2))]
)
def test_fingerprint_digest_has_no_name_collisions(other):
    """Covers names that contain the separators of the digest input."""
    before = fingerprint.of("folder", {"train": Named(("a", 1), ("b", 2))}, 0)
    assert before.differences(fingerprint.of("folder", {"train": Named(*other)}, 0))


def test_fingerprint_1152_shards_under_2_seconds():
    """The published ImageNet has 1,024 and 128 shards with 1,331,167 records."""
    from pathlib import Path

    splits = {}
    for split, shards, records in (("train", 1024, 1_281_167), ("validation", 128, 50_000)):
        files = tuple(Path(f"{split}-{shard:05d}-of-{shards:05d}") for shard in range(shards))
        file = np.arange(records) * shards // records
        splits[split] = tfrecord.Records(files, file, np.zeros(records, np.int64), np.full(records, 110_000))
    started = time.process_time()
    found = fingerprint.of("tfrecord", splits, 0)
    assert time.process_time() - started < 2
    assert found.splits["train"].records == 1_281_167
