"""The native reader: the same results as the Python reader, and nothing that differs from the index is accepted."""

import gc
import io
import os
import random
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from resnext_trainer.cli.main import main
from resnext_trainer.config.validation import resolve
from resnext_trainer.data import native_reader, open_files
from resnext_trainer.data.block_order import blocks
from resnext_trainer.data.datasets import record_index, tfrecord
from resnext_trainer.data.datasets.example import IMAGENET, example, locate
from resnext_trainer.data.datasets.record_framing import FOOTER, HEADER, checksum
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.open_files import OpenFiles, PooledFile
from resnext_trainer.data.sampling import Batches
from resnext_trainer.data.shard_files import Located
from tests.support.descriptors import open_under
from tests.support.images import noise
from tests.support.native import compiled


@pytest.fixture(autouse=True)
def native(monkeypatch):
    """The library of this source tree, whatever is installed."""
    reader = compiled()
    monkeypatch.setattr(native_reader, "load", lambda: reader)
    return reader


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A shard of eight images of different size."""
    folder = tmp_path_factory.mktemp("shard")
    for split in tfrecord.SPLITS:
        images = [(noise(number, (9 + number, 20)), 1 + number) for number in range(8)]
        tfrecord.write(folder, split, images, 1)
    return folder


@pytest.fixture
def indexed_copy(few_digits, tmp_path):
    """The few digits with records.index."""
    folder = shutil.copytree(few_digits, tmp_path / "indexed")
    tfrecord.index_folder(str(folder))
    return folder


def opened(folder, *, known=True):
    records = tfrecord.open_split(str(folder), "train")
    if known:
        for number in range(len(records)):
            records.read(number)
    return records


def located(descriptor=-1, address=0, path=b"/nowhere\0"):
    """One record at this place."""
    name = np.frombuffer(path, np.uint8).__array_interface__["data"][0]
    return Located(np.array([descriptor], np.int32), *(np.array([each], np.uintp) for each in (address, name)))


def read(native, records, content, number, **changed):
    """One record, read from these bytes of its shard with a changed layout."""
    place = np.array([number])
    layouts = records.layouts[place].copy()
    for name, value in changed.items():
        layouts[name] += value
    buffer = np.frombuffer(content, np.uint8)
    address = buffer.__array_interface__["data"][0] + int(records.offset[number])
    (jpeg,) = native.read(located(address=address), records.offset[place], records.length[place], layouts)
    return jpeg


@pytest.mark.parametrize("size", [*range(33), 1359, 1360, 4079, 4080, 4081, 8160, 8161, 110_001])
def test_crc32c_any_size_matches_google(native, size):
    """Covers the lengths around each step of the loops, with and without the CPU's instruction."""
    for shift in (0, 1, 5):
        content = random.Random(size).randbytes(size + shift)[shift:]
        assert native.crc32c(content) == native.crc32c(content, portable=True) == google_crc32c.value(content)


def test_native_batch_equals_python_reader(few_digits):
    """The first reading of a record is in Python, the second is not; both give the same image, label and size."""
    python, records = opened(few_digits, known=False), opened(few_digits)
    python.native = None
    numbers = np.random.default_rng(0).permutation(len(records))
    found = records.read_batch(numbers)
    assert list(zip(found.jpegs, found.labels, strict=True)) == [python.read(number) for number in numbers]
    assert set(found.heights) == set(found.widths) == {32}
    assert python.read_batch(numbers).jpegs == [None] * len(numbers)


def test_native_changed_byte_not_accepted(native, shard):
    """A change is detected in each byte of a record: its framing, the features around the image, and the image."""
    records = opened(shard)
    whole = (shard / "train-00000-of-00001").read_bytes()
    assert read(native, records, whole, 3) == records.read(3)[0]
    for byte in range(int(records.length[3])):
        content = bytearray(whole)
        content[int(records.offset[3]) + byte] ^= 1 << byte % 8
        assert read(native, records, bytes(content), 3) is None, byte


@pytest.mark.parametrize("field", ["start", "size", "checksum"])
@pytest.mark.parametrize("difference", [-1, 1, 2**31, -1000])
def test_native_wrong_layout_not_accepted(native, shard, field, difference):
    """A layout of another record, or of a damaged index, never returns other bytes or reads beyond the record."""
    if field == "size" and difference == 2**31:
        difference = 5000
    records = opened(shard)
    whole = (shard / "train-00000-of-00001").read_bytes()
    assert read(native, records, whole, 3, **{field: np.array(difference % 2**32, np.uint32)}) is None


@pytest.mark.parametrize("opened_by", ["caller", "library"])
@pytest.mark.parametrize("case", ["whole", "cut off", "other content", "missing", "pipe", "folder"])
def test_native_file_not_readable_not_accepted(native, shard, tmp_path, case, opened_by):
    """A file that ends within the record, that has other content, or that cannot be read. A pipe does not block."""
    records, numbers = opened(shard), np.array([7])
    content = (shard / "train-00000-of-00001").read_bytes()
    file = tmp_path / "shard"
    if case == "pipe":
        os.mkfifo(file)
    elif case == "folder":
        file.mkdir()
    elif case != "missing":
        file.write_bytes({"cut off": content[:-1], "other content": bytes(len(content))}.get(case, content))
    descriptor = -1
    if opened_by == "caller" and case != "missing":
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    before = open_under(tmp_path)
    path = os.fsencode(file) + b"\0"
    place = located(descriptor, path=b"/nowhere\0" if opened_by == "caller" else path)
    found = native.read(place, records.offset[numbers], records.length[numbers], records.layouts[numbers])
    assert found == [records.read(7)[0] if case == "whole" else None]
    assert open_under(tmp_path) == before
    if descriptor >= 0:
        os.close(descriptor)


def test_native_more_shards_than_open_files(few_digits, tmp_path, monkeypatch):
    """Every record is read, and no more files are open than allowed."""
    monkeypatch.setattr(open_files, "SHARED", OpenFiles(lambda: 8))
    images = [opened(few_digits, known=False).read(number) for number in range(40)]
    for split in tfrecord.SPLITS:
        tfrecord.write(tmp_path, split, images, 20)
    assert main(["data", "index", "--path", str(tmp_path)]) == 0
    records = tfrecord.open_split(str(tmp_path), "train")
    for _ in range(2):
        assert None not in records.read_batch(np.arange(40)).jpegs
        assert [records.read(number) for number in (3, 17, 39)]
        assert 0 < open_under(tmp_path) <= 8
    del records
    assert open_under(tmp_path) == 0


class TestOpenShards:
    """One limit on open files for all splits of the process."""

    SHARDS, LIMIT = 300, 64

    @pytest.fixture
    def splits(self, few_digits, tmp_path, monkeypatch):
        """Training and validation split with 300 shards each, in a pool of 64 open files."""
        images = [opened(few_digits, known=False).read(number) for number in range(96)]
        for split in tfrecord.SPLITS:
            tfrecord.write(tmp_path, split, (images * 13)[: 4 * self.SHARDS], self.SHARDS)
        tfrecord.index_folder(str(tmp_path))
        monkeypatch.setattr(open_files, "SHARED", OpenFiles(lambda: self.LIMIT))
        return [tfrecord.open_split(str(tmp_path), split) for split in tfrecord.SPLITS]

    @pytest.mark.parametrize("way", ["native", "python", "blocks"])
    def test_open_shards_of_two_splits_within_one_limit(self, splits, way, tmp_path):
        """While several threads read both splits, as when an evaluation begins, and afterwards."""
        most = []

        def read(task):
            records, seed = task
            numbers = np.random.default_rng(seed).permutation(len(records)).reshape(-1, 50)
            for batch in numbers:
                if way == "native":
                    assert None not in records.read_batch(batch).jpegs
                else:
                    assert all(records.read(number)[0] for number in batch.tolist())
                most.append(open_under(tmp_path))

        def read_blocks(records):
            numbers = np.arange(len(records))
            with records.reading_ahead(blocks(records.groups), numbers, 400) as ahead:
                for batch in numbers.reshape(-1, 50):
                    assert None not in ahead.read_batch(batch).jpegs
                    ahead.finish(batch)
                    most.append(open_under(tmp_path))

        with ThreadPoolExecutor(8) as threads:
            if way == "blocks":
                list(threads.map(read_blocks, splits))
            else:
                list(threads.map(read, [(records, seed) for records in splits for seed in range(4)]))
        assert max(most) <= self.LIMIT
        assert max(most) >= self.LIMIT // 2  # descriptors are reused
        if way == "native":
            assert len(open_files.SHARED) <= 3 * self.LIMIT // 4  # the others are for the Python reader
        splits.clear()
        gc.collect()
        assert len(open_files.SHARED) == 0

    def test_discard_during_another_method_does_not_block(self):
        """The garbage collector may run while the pool's lock is held; the files are closed later."""
        pool, file = OpenFiles(lambda: 8), PooledFile(Path(__file__))
        descriptor = pool.keep(file.path)
        assert descriptor is not None
        with pool._lock:
            pool.discard([descriptor], [])
        assert len(pool) == 1
        pool.read(file, 1, 0)
        pool.discard((), [file])
        assert len(pool) == 0


def test_reads_counted_once_in_every_way(few_digits, indexed_copy):
    """A request is a record, or a block that is read as a whole; records in memory are not counted."""
    by_python, native = tfrecord.open_split(str(few_digits), "train"), tfrecord.open_split(str(indexed_copy), "train")
    size = int(native.length.sum())
    for number in range(96):
        by_python.read(number)
    native.read_batch(np.arange(96))
    for records in (by_python, native):
        assert (records.reads.requests, records.reads.bytes) == (96, size)
    numbers = np.arange(96)
    starts = blocks(native.groups)
    with native.reading_ahead(starts, numbers, 96) as ahead:
        ahead.read_batch(numbers)
        ahead.finish(numbers)
    assert (native.reads.requests, native.reads.bytes) == (96 + len(starts) - 1, 2 * size)


def test_batches_damaged_after_indexing_read_as_before(shard, tmp_path, caplog):
    """A record that was damaged after the index was made is replaced, with the reason of the Python reader."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in shard.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert main(["data", "index", "--path", str(folder)]) == 0
    config = resolve(
        {"batchSize": 8, "model": {"classes": 8}, "data": {"path": str(folder), "maxBadRecordFraction": 0.2}}
    )
    before = Batches(config, Shard(0, 1)).train(0).load(0)
    file = folder / "train-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[int(opened(folder).offset[3]) + 200] ^= 1
    file.write_bytes(content)
    damaged = Batches(config, Shard(0, 1))
    after = damaged.train(0).load(0)
    assert ("train", 3) in damaged.bad
    assert "its checksum does not match" in caplog.text
    place = before.numbers.index(3)
    assert [*after.numbers[:place], *after.numbers[place + 1 :]] == [n for n in before.numbers if n != 3]
    assert after.numbers[place] == before.numbers[(place + 1) % 8]


class TestRecordIndex:
    """The index of all records, which `data index` writes."""

    @pytest.fixture
    def indexed(self, few_digits, tmp_path):
        assert main(["data", "index", "--path", str(few_digits), "--index-path", str(tmp_path)]) == 0
        return tmp_path

    def test_index_file_alone_opens_dataset(self, few_digits, indexed):
        """The indexes of the shards are then not read, and every layout is that of the Python reader."""
        for file in indexed.glob("*.idx"):
            file.unlink()
        for split in tfrecord.SPLITS:
            alone = tfrecord.open_split(str(few_digits), split, str(indexed))
            by_shard = tfrecord.open_split(str(few_digits), split)
            for number in range(len(by_shard)):
                by_shard.read(number)
            for name in ("file", "offset", "length", "layouts"):
                assert (getattr(alone, name) == getattr(by_shard, name)).all()

    def test_index_reads_each_shard_once(self, few_digits, tmp_path):
        """According to the kernel; the start of each shard is also read to identify the file."""

        def bytes_read():
            return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])

        before = bytes_read()
        counts = tfrecord.index_folder(str(few_digits), str(tmp_path))
        read, size = bytes_read() - before, sum((few_digits / name).stat().st_size for name in counts)
        assert size <= read <= size + (len(counts) + 1) * io.DEFAULT_BUFFER_SIZE

    def test_index_row_at_most_64_bytes(self, few_digits):
        """With file, position, length and layout, 1.28 million records need less than 82 MB."""
        records = opened(few_digits)
        arrays = (records.file, records.offset, records.length, records.layouts)
        assert sum(array.nbytes for array in arrays) <= 64 * len(records)

    @pytest.mark.parametrize("damage", ["empty", "cut", "changed", "text", "object"])
    def test_index_damaged_ignored_with_warning(self, few_digits, indexed, caplog, damage):
        """The indexes of the shards are used; pickled objects are never loaded."""
        file = indexed / record_index.NAME
        content = file.read_bytes()
        if damage == "object":
            np.savez(indexed / "other.npz", format=np.array([{}], object))
        file.write_bytes(
            {
                "empty": lambda: b"",
                "cut": lambda: content[:-100],
                "changed": lambda: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
                "text": lambda: b"offset length\n",
                "object": lambda: (indexed / "other.npz").read_bytes(),
            }[damage]()
        )
        assert len(tfrecord.open_split(str(few_digits), "train", str(indexed))) == 96
        assert f"{file} is ignored" in caplog.text

    def test_index_of_other_shard_not_used(self, few_digits, indexed):
        """A shard of another size is opened by its own index."""
        records = tfrecord.open_split(str(few_digits), "train")
        (indexed / "data").mkdir()
        (indexed / record_index.NAME).rename(indexed / "data" / record_index.NAME)
        for split in tfrecord.SPLITS:
            tfrecord.write(indexed / "data", split, [records.read(number) for number in range(10)], 2)
        other = tfrecord.open_split(str(indexed / "data"), "train")
        assert len(other) == 10
        assert not other.layouts["size"].any()

    def test_index_other_features_layouts_unknown(self, few_digits, indexed):
        """The position of one feature says nothing about another."""
        features = tfrecord.Features("image", "label")
        assert not tfrecord.open_split(str(few_digits), "train", str(indexed), features=features).layouts["size"].any()

    def test_training_writes_nothing_to_dataset(self, few_digits):
        """Training writes neither an index nor any other file to the dataset directory."""

        def state():
            return {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in few_digits.iterdir()}

        before = state()
        config = resolve({"batchSize": 16, "model": {"classes": 10}, "data": {"path": str(few_digits)}})
        list(Batches(config, Shard(0, 1)).train(0).prefetch())
        assert state() == before


FIELDS = strategies.sampled_from(["image/encoded", "image/class/label", "image/height", "extra"])
VALUES = strategies.one_of(
    strategies.lists(strategies.binary(max_size=200), max_size=2),
    strategies.lists(strategies.integers(-(2**63), 2**63 - 1), max_size=2),
    strategies.lists(strategies.floats(width=32, allow_nan=False), max_size=2),
)


def serialized(features):
    from tensorflow.core.example.example_pb2 import Example

    record = Example()
    for name, values in features.items():
        feature = record.features.feature[name]
        for value in values:
            kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[type(value)]
            kind.value.append(value)
    return record.SerializeToString()


@settings(max_examples=300, deadline=None)
@given(
    strategies.dictionaries(FIELDS, VALUES),
    strategies.integers(0, 2**31),
    strategies.lists(strategies.tuples(strategies.integers(0, 400), strategies.integers(0, 255)), max_size=2),
)
def test_locate_finds_what_example_reads(features, label, changes):
    """With and without changed bytes: the position and the label are right, or nothing is found."""
    if label % 2:
        features |= {"image/encoded": [b"\xff\xd8" + bytes(label % 300)], "image/class/label": [label]}
    content = bytearray(serialized(features))
    for place, value in changes:
        if content:
            content[place % len(content)] = value
    stored = bytes(content)
    found = locate(stored, IMAGENET)
    try:
        image, wanted = example(stored)
    except ValueError:
        return  # `locate` is used for records that `example` has read
    if found is not None:
        assert (stored[found.start : found.start + found.size], found.label) == (image, wanted)
    else:
        assert changes or len(features["image/encoded"]) != 1 or len(features["image/class/label"]) != 1


def test_layout_unusual_jpeg_header_unknown():
    """libjpeg skips stray bytes that other decoders reject: the Python reader removes them from every image."""
    jpeg = noise(0, (9, 9))
    stray = jpeg[:2] + b"\x00\x01" + jpeg[2:]

    def record(image):
        content = serialized({"image/encoded": [image], "image/class/label": [1]})
        length = struct.pack("<Q", len(content))
        parts = (length, struct.pack("<I", checksum(length)), content, struct.pack("<I", checksum(content)))
        return b"".join(parts)

    def layout_of(image):
        return record_index.layout_of(record(image), image, 1, IMAGENET)

    layout = layout_of(jpeg)
    assert layout is not None
    assert (layout.height, layout.width, layout.label) == (9, 9, 1)
    assert record(jpeg)[HEADER + layout.start :][: layout.size] == jpeg
    assert layout.checksum == checksum(record(jpeg)[HEADER:-FOOTER])
    assert layout_of(stray) is None
    assert layout_of(b"no image") is None
