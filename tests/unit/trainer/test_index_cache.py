"""Indexes of datasets without records.index, kept outside the dataset for later starts and other ranks."""

import logging
import os
import shutil

import numpy as np
import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.data import native_reader
from resnext_trainer.data.datasets import index_cache, record_index, tfrecord
from resnext_trainer.data.input_pipeline import Shard, open_dataset
from resnext_trainer.data.sampling import Batches
from resnext_trainer.data.shard_cache import ShardCache
from resnext_trainer.errors import TrainingError
from tests.support.native import compiled


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """The library of this source tree, which uses the layouts."""
    monkeypatch.setattr(native_reader, "load", compiled)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Cache directory of a user; small datasets are kept as well."""
    monkeypatch.setattr(tfrecord, "LEAST_RECORDS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "resnext-indexes"


@pytest.fixture
def folder(few_digits, tmp_path):
    """A dataset with one index per shard."""
    return shutil.copytree(few_digits, tmp_path / "data")


def config(folder, **data):
    data = {"path": str(folder), "pipeline": "tfdata", **data}
    return resolve({"batchSize": 16, "model": {"classes": 10}, "data": data})


def opened(folder, **data):
    return open_dataset(config(folder, **data), "train")


def known(records):
    return int(np.count_nonzero(records.layouts["size"]))


def epoch(folder, rank=0, ranks=1, **data):
    """A rank that read an epoch."""
    source = Batches(config(folder, **data), Shard(rank, ranks))
    batches = [(batch.jpegs, batch.labels.tolist()) for batch in source.train(0).prefetch()]
    return source.examples["train"], batches


@pytest.fixture
def no_idx_read(monkeypatch):
    """Reading the index of a shard fails."""
    return lambda: monkeypatch.setattr(tfrecord, "table", lambda file, _: pytest.fail(f"the index of {file} is read"))


def test_index_kept_second_start_reads_no_idx(folder, home, no_idx_read):
    """The second start has the same positions, without an index of a shard."""
    first = opened(folder)
    assert len(list(home.iterdir())) == 1
    no_idx_read()
    second = opened(folder)
    for name in ("file", "offset", "length"):
        assert (getattr(first, name) == getattr(second, name)).all()


@pytest.mark.parametrize("order", ["random", "blocks"])
def test_index_kept_layouts_known_after_epoch(folder, home, order):
    """The next attempt reads every image with the native reader, and gets the same batches."""
    first, batches = epoch(folder, order=order)
    assert known(first) == 96
    second = Batches(config(folder, order=order), Shard(0, 1))
    assert known(second.examples["train"]) == 96
    assert [(batch.jpegs, batch.labels.tolist()) for batch in second.train(0).prefetch()] == batches
    assert len(list(home.iterdir())) == 2  # one file for each split


@pytest.mark.usefixtures("home")
def test_index_kept_ranks_share_layouts(folder):
    """Each of two ranks reads one half of the images; from the next epoch on, both know the other half as well."""
    ranks = [Batches(config(folder), Shard(rank, 2)) for rank in (0, 1)]
    for rank in ranks:
        list(rank.train(0).prefetch())
    first, second = (rank.examples["train"] for rank in ranks)
    assert (known(first), known(second)) == (48, 96)
    next(ranks[0].train(1).prefetch())
    assert known(first) == 96
    assert isinstance(first, tfrecord.Records)
    assert isinstance(second, tfrecord.Records)
    assert (first.layouts == second.layouts).all()


@pytest.mark.usefixtures("home")
def test_index_kept_bad_record_stays_unknown(folder):
    """A record without a layout is read by Python, which says why it is bad."""
    shard = folder / "train-00000-of-00002"
    content = bytearray(shard.read_bytes())
    content[int(opened(folder).offset[3]) + 200] ^= 1
    shard.write_bytes(content)
    records, _ = epoch(folder, maxBadRecordFraction=0.1)
    assert known(records) == 95
    with pytest.raises(TrainingError, match="its checksum does not match"):
        opened(folder).read(3)


@pytest.mark.parametrize("changed", ["train-00001-of-00002", "train-00001-of-00002.idx"])
def test_index_kept_changed_file_opened_again(folder, home, changed):
    """A shard or an index that was replaced by one of the same size; the outdated index is removed."""
    epoch(folder)
    before = set(home.iterdir())
    os.utime(folder / changed, ns=(1, 1))
    assert known(opened(folder)) == 0
    assert len(set(home.iterdir()) - before) == 1
    assert len(list(home.iterdir())) == 2


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("damage", ["idx missing", "idx invalid", "shard truncated"])
def test_kept_index_does_not_hide_damaged_dataset(folder, damage):
    """The same error as without a kept index."""
    opened(folder)
    index, shard = folder / "train-00001-of-00002.idx", folder / "train-00001-of-00002"
    match damage:
        case "idx missing":
            index.unlink()
        case "idx invalid":
            index.write_text("nonsense")
        case _:
            os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(TrainingError, match=str(shard)):
        opened(folder)


@pytest.mark.parametrize("damage", [b"", b"offset length\n", None])
def test_index_kept_damaged_replaced_with_warning(folder, home, caplog, damage):
    """An empty, a foreign and a truncated file."""
    opened(folder)
    (file,) = home.iterdir()
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert len(opened(folder)) == 96
    assert f"{file} is ignored" in caplog.text
    assert len(record_index.load(file, tfrecord.Features())) == 2


def test_index_kept_directory_not_writable_ignored(folder, tmp_path, monkeypatch, caplog):
    """The training starts as usual. A file with the name of the directory prevents writing, even for root."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tfrecord, "LEAST_RECORDS", 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    records, _ = epoch(folder)
    assert known(records) == 96
    assert f"the index of {folder} cannot be kept in {tmp_path}/file/resnext-indexes: " in caplog.text


def test_index_kept_disk_full_leaves_no_file(folder, home, monkeypatch):
    """Neither a partial index nor a temporary file."""

    def full(file, _):
        file.touch()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert len(opened(folder)) == 96
    assert not list(home.iterdir())


def test_index_is_not_kept_in_dataset(folder, home, tmp_path, monkeypatch):
    """Not even if the cache directory is inside it; neither with records.index nor for a small dataset."""
    before = sorted(folder.rglob("*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    epoch(folder)
    monkeypatch.setattr(ShardCache, "start", lambda _: None)  # its copies are where they are configured
    epoch(folder, cache=str(folder / "cache"))
    assert sorted(folder.rglob("*")) == before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tfrecord, "LEAST_RECORDS", index_cache.LEAST_RECORDS)
    epoch(folder)
    tfrecord.index_folder(str(folder))
    monkeypatch.setattr(tfrecord, "LEAST_RECORDS", 1)
    epoch(folder)
    assert not home.exists()


def test_index_kept_in_cache_directory_of_training(folder, home, tmp_path):
    """A directory in data.cache may outlive the pod; /dev/shm does not, and counts as memory."""
    opened(folder, cache=str(tmp_path / "disk"))
    assert len(list((tmp_path / "disk" / "resnext-indexes").iterdir())) == 1
    assert not home.exists()
    opened(folder, cache="memory")
    assert len(list(home.iterdir())) == 1


def test_index_kept_other_features_separate(folder, home):
    """Layouts of one feature say nothing about another, and are not overwritten."""
    epoch(folder)
    assert known(opened(folder, labelFeature="other")) == 0
    assert len(list(home.iterdir())) == 3
    assert known(opened(folder)) == 96
