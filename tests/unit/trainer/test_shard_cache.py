"""Copies of shards: complete ones are used, everything else is read from the original."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from resnext_trainer.config.validation import resolve
from resnext_trainer.data import shard_cache
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.sampling import Batches
from resnext_trainer.data.shard_cache import ShardCache


@pytest.fixture
def place(tmp_path):
    return tmp_path / "cache"


def opened(folder):
    return [tfrecord.open_split(str(folder), split) for split in tfrecord.SPLITS]


def cache(place, splits):
    return ShardCache(str(place), [records.shards for records in splits])


def copies(folder):
    return sorted(file.name for file in folder.glob("*-of-*"))


def test_cache_run_reads_from_copies(few_digits, place):
    """Every shard of both splits is copied, and the records are the same."""
    splits = opened(few_digits)
    expected = [records.read(3) for records in splits]
    copying = cache(place, splits)
    copying.run()
    assert len(copies(copying.folder)) == 4
    assert all(path.parent == copying.folder for records in splits for path in records.shards.paths)
    assert [records.read(3) for records in splits] == expected
    (jpeg,) = splits[0].read_batch(np.array([3])).jpegs
    assert jpeg in (expected[0][0], None)  # None without the native reader
    assert f"{few_digits}/" in splits[0].location(3)


def test_cache_second_rank_uses_copies_of_first(few_digits, place, monkeypatch):
    """While the first holds the lock, the second copies nothing."""
    first, second = cache(place, opened(few_digits)), cache(place, opened(few_digits))
    first.run()
    monkeypatch.setattr(ShardCache, "_copy", lambda *_: pytest.fail("copied again"))
    second.run()
    assert not second._missing


def test_cache_lock_holder_ended_next_rank_continues(few_digits, place):
    """A rank that ends leaves complete and partial copies; another rank completes them."""
    first = cache(place, opened(few_digits))
    first.stop()
    first.run()
    assert copies(first.folder) == []
    (first.folder / "train-00001-of-00002.partial").write_bytes(b"part")
    del first
    splits = opened(few_digits)
    second = cache(place, splits)
    second.run()
    assert len(copies(second.folder)) == 4
    assert not list(second.folder.glob("*.partial"))


@pytest.mark.parametrize("content", [b"", b"short"])
def test_cache_truncated_copy_never_used(few_digits, place, content):
    """A file of another size is replaced."""
    splits = opened(few_digits)
    copying = cache(place, splits)
    copying.folder.mkdir(parents=True)
    (copying.folder / "train-00000-of-00002").write_bytes(content)
    assert copying._adopt()
    assert splits[0].shards.paths[0].parent == few_digits
    copying.run()
    assert splits[0].shards.paths[0].read_bytes() == (few_digits / "train-00000-of-00002").read_bytes()


def test_cache_too_little_space_reads_original_with_one_warning(few_digits, place, monkeypatch, caplog):
    """Nothing is copied if not everything fits."""
    monkeypatch.setattr(ShardCache, "_free", lambda _: 1000)
    splits = opened(few_digits)
    copying = cache(place, splits)
    copying.run()
    assert copies(copying.folder) == []
    assert splits[0].shards.paths[0].parent == few_digits
    assert len(caplog.messages) == 1
    assert "have" in caplog.text or "has only" in caplog.text


@pytest.mark.parametrize("name", ["ENOSPC", "EIO"])
def test_cache_write_error_reads_original(few_digits, place, monkeypatch, caplog, name):
    """Another process may have filled the disk since; no partial copy remains."""

    def failing(_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(os, "fsync", failing)
    splits = opened(few_digits)
    copying = cache(place, splits)
    copying.run()
    assert [file.name for file in copying.folder.iterdir()] == ["lock"]
    assert splits[0].read(0)
    assert "read from data.path" in caplog.text


def test_cache_other_version_of_dataset_other_directory(few_digits, place, tmp_path):
    """Copies of a dataset that was replaced by one of the same size are not used."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in few_digits.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = cache(place, opened(folder)).folder
    os.utime(folder / "train-00000-of-00002", ns=(1, 1))
    assert cache(place, opened(folder)).folder != before


def test_cache_memory_respects_limit_of_container(few_digits, tmp_path, monkeypatch):
    """The limit of the cgroup counts, less what is in use; page cache counts as free."""
    for name, content in (
        ("memory.max", "1000000000"),
        ("memory.current", "900000000"),
        ("memory.stat", "anon 100\ninactive_file 300000000\n"),
    ):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(shard_cache, "_CGROUP", tmp_path)
    monkeypatch.setattr(shard_cache, "_SHARED_MEMORY", tmp_path)
    copying = ShardCache("memory", [records.shards for records in opened(few_digits)])
    copying.folder.mkdir()
    assert copying._free() == 300_000_000
    (tmp_path / "memory.max").write_text("max")
    assert copying._free() > 300_000_000


def test_batches_with_cache_equal_those_without(few_digits, place):
    """The data does not depend on where it is read from."""

    def batches(**data):
        data |= {"path": str(few_digits), "pipeline": "tfdata"}
        source = Batches(resolve({"batchSize": 16, "model": {"classes": 10}, "data": data}), Shard(0, 1))
        return [(batch.jpegs, batch.cuts, batch.numbers) for batch in source.train(0).prefetch()]

    assert batches(cache=str(place)) == batches()


RANK = """
import sys
from pathlib import Path
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.shard_cache import ShardCache
splits = [tfrecord.open_split(sys.argv[1], split).shards for split in tfrecord.SPLITS]
ShardCache(sys.argv[2], splits).run()
print("done", flush=True)
sys.stdin.read()
"""


def test_cache_unusable_directory_one_warning_per_pod(few_digits, tmp_path):
    """Three ranks of a pod find a file where the directory should be."""
    place = tmp_path / "file"
    place.write_text("")
    words, pipe = [sys.executable, "-c", RANK, str(few_digits), str(place)], subprocess.PIPE
    ranks = [subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    assert [rank.stdout.readline() for rank in ranks if rank.stdout] == ["done\n"] * 3
    logged = "".join(rank.communicate("")[1] for rank in ranks)
    assert logged.count("the shards are read from data.path") == 1
    assert str(place) in logged
