"""The order `blocks`: each image once, a function of seed and epoch, resumable, and read in whole blocks."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from resnext_trainer.config.validation import InvalidConfig, resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import block_order as block_order_module
from resnext_trainer.data import read_ahead, sampling
from resnext_trainer.data.block_order import BLOCK, WINDOW, block_order, blocks, reshuffled
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.examples import PADDING
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.open_files import OpenFiles
from resnext_trainer.data.sampling import Batches, epoch_order
from resnext_trainer.errors import TrainingError

SIZES = strategies.lists(strategies.integers(0, 3 * BLOCK), min_size=1, max_size=40)


def groups(sizes):
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


def of_block(starts, numbers):
    return np.searchsorted(starts, numbers, side="right") - 1


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_blocks_divide_every_shard(sizes):
    """No block contains records of two shards, and all are about as long as they should be."""
    starts = blocks(groups(sizes))
    assert starts[-1] == sum(sizes)
    assert set(np.cumsum(sizes)) <= {0, *starts.tolist()}
    lengths = np.diff(starts)
    assert (lengths > 0).all()
    assert (lengths <= 1.5 * BLOCK).all()


@settings(max_examples=60, deadline=None)
@given(SIZES, strategies.integers(0, 2**31 - 1), strategies.integers(0, 1000), strategies.data())
def test_block_order_any_shards_each_record_once(sizes, seed, epoch, data):
    """Each record occurs once even after rollbacks, whose reshuffle keeps the consumed records."""
    starts, total = blocks(groups(sizes)), sum(sizes)
    order = epoch_order(seed, epoch, total, (), starts)
    assert sorted(order) == list(range(total))
    assert (order == epoch_order(seed, epoch, total, (), starts)).all()
    seen = data.draw(strategies.integers(0, total))
    again = epoch_order(seed, epoch, total, ((seen, 1),), starts)
    assert sorted(again) == list(range(total))
    assert (again[:seen] == order[:seen]).all()


def test_block_order_differs_by_seed_and_epoch():
    """Seed and epoch change the order of the blocks and of the records within them."""
    starts = blocks(groups([1000] * 10))
    orders = [epoch_order(seed, epoch, 10_000, (), starts) for seed, epoch in ((0, 0), (1, 0), (0, 1))]
    for first in range(3):
        for second in range(first):
            assert (orders[first] != orders[second]).mean() > 0.99
            assert (of_block(starts, orders[first]) != of_block(starts, orders[second])).mean() > 0.9
    assert (reshuffled(orders[0], 0, orders[1]) == orders[1]).all()


def test_block_order_consecutive_images_from_different_blocks():
    """A batch contains few images of a block, and a window contains no more blocks than it should."""
    starts = blocks(groups([1251] * 64))
    order = block_order([0, 0], starts)
    window = of_block(starts, order[: WINDOW * BLOCK])
    assert len(set(window[:WINDOW])) == WINDOW
    assert len(set(window)) <= WINDOW + 16  # blocks are not exactly equal
    inside = order[: WINDOW * BLOCK] - starts[window]
    assert np.corrcoef(inside, np.arange(len(inside)))[0, 1] < 0.1


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_block_order_ranks_read_own_blocks(ranks):
    """Together, the ranks read little more than each block once."""
    starts = blocks(groups([1251] * 64))
    order = of_block(starts, block_order([3, 1], starts))
    read = sum(len(set(order[rank::ranks])) for rank in range(ranks))
    assert read <= 1.15 * (len(starts) - 1)


def config(folder, **data):
    data = {"path": str(folder), "order": "blocks", "pipeline": "tfdata"} | data
    return resolve({"batchSize": 8, "model": {"classes": 10, "imageSize": 16}, "data": data})


def batches(folder, rank=0, ranks=1, **data):
    return Batches(config(folder, **data), Shard(rank, ranks))


def numbers(schedule):
    return [number for batch in schedule.prefetch() for number in batch.numbers]


@pytest.fixture
def small(monkeypatch):
    """Blocks of four records, of which four are open."""
    for module in (sampling, block_order_module):
        monkeypatch.setattr(module, "BLOCK", 4)
        monkeypatch.setattr(module, "WINDOW", 4)


@pytest.mark.usefixtures("small")
class TestBatches:
    """Batches in the order `blocks`."""

    @pytest.mark.parametrize("ranks", [1, 2, 3, 4])
    def test_batches_each_image_once_over_ranks(self, few_digits, ranks):
        """In each step, the ranks together read the images that one rank with the same global batch reads."""
        each = [list(batches(few_digits, rank, ranks).train(1).prefetch()) for rank in range(ranks)]
        whole = [batch.numbers for batch in batches(few_digits).train(1).prefetch()]
        for step, parts in enumerate(zip(*each, strict=True)):
            together = [number for part in parts for number in part.numbers]
            assert sorted(together) == sorted(chain(*whole[step * ranks : (step + 1) * ranks]))
        seen = [number for part in each for batch in part for number in batch.numbers]
        assert len(set(seen)) == len(seen) == 96 // (8 * ranks) * 8 * ranks

    def test_batches_resume_with_other_ranks_each_image_once(self, few_digits):
        """Two ranks read 32 images, and four ranks read the others."""
        first = [batches(few_digits, rank, 2).train(0).load(step).numbers for rank in (0, 1) for step in (0, 1)]
        rest = [numbers(batches(few_digits, rank, 4).train(0, 32)) for rank in range(4)]
        assert sorted(chain(*first, *rest)) == list(range(96))

    def test_prefetch_from_any_batch_equals_load(self, few_digits):
        """The images, crops and labels of a batch do not depend on how it was read."""
        schedule = batches(few_digits).train(2)
        for first in (0, 3, 11):
            for number, batch in enumerate(schedule.prefetch(first), first):
                alone = schedule.load(number)
                assert (batch.jpegs, batch.cuts, batch.numbers) == (alone.jpegs, alone.cuts, alone.numbers)
                assert batch.labels.tolist() == alone.labels.tolist()

    @pytest.mark.parametrize("ranks", [1, 3])
    def test_validation_each_image_once(self, few_digits, ranks):
        """Every rank has the same number of batches."""
        schedules = [batches(few_digits, rank, ranks).validate() for rank in range(ranks)]
        assert len({schedule.count for schedule in schedules}) == 1
        read = [number for schedule in schedules for number in numbers(schedule) if number != PADDING]
        assert sorted(read) == list(range(40))

    def test_blocks_requested_once_and_released(self, few_digits, monkeypatch):
        """Each block is requested once, and none remains in memory."""
        spans, kept = [], []
        read_into, close = OpenFiles.read_into, read_ahead.ReadAhead.close

        def request(self, file, length, offset):
            spans.append((file, offset))
            return read_into(self, file, length, offset)

        def closed(self):
            kept.append(len(self._blocks))
            close(self)

        monkeypatch.setattr(OpenFiles, "read_into", request)
        monkeypatch.setattr(OpenFiles, "read", lambda *_: pytest.fail("a record was read alone"))
        monkeypatch.setattr(read_ahead.ReadAhead, "close", closed)
        assert len(numbers(batches(few_digits).train(0))) == 96
        assert len(spans) == len(set(spans)) == 24
        assert kept == [0]

    def test_finished_block_not_requested_again(self, few_digits):
        """A replacement for a bad record may come from a block that was released."""
        records = tfrecord.open_split(str(few_digits), "train")
        with records.reading_ahead(blocks(records.groups), np.arange(96), 10) as ahead:
            ahead.finish(np.arange(96))
            assert ahead.read(3) == records.read(3)
            assert isinstance(ahead._source, read_ahead.ReadAhead)
            assert not ahead._source._blocks

    def test_bad_records_replaced_as_in_random_order(self, few_digits, tmp_path):
        """The next usable image of the order, and every batch is full."""
        for file in few_digits.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        offset = int(tfrecord.open_split(str(tmp_path), "train").offset[5])
        content = bytearray((tmp_path / "train-00000-of-00002").read_bytes())
        content[offset + 100] ^= 1
        (tmp_path / "train-00000-of-00002").write_bytes(content)
        damaged = batches(tmp_path, maxBadRecordFraction=0.1)
        order = numbers(batches(few_digits).train(0))
        place = order.index(5)
        order[place] = order[(place + 1) % 96]
        assert numbers(damaged.train(0)) == order
        assert ("train", 5) in damaged.bad

    def test_system_error_while_reading_ahead_ends_attempt(self, few_digits, monkeypatch):
        """No record is marked as bad."""
        import errno

        def failing(*_):
            raise OSError(errno.EIO, "Input/output error")

        source = batches(few_digits, maxBadRecordFraction=1.0)
        monkeypatch.setattr("os.preadv", failing)
        with pytest.raises(TrainingError) as caught:
            numbers(source.train(0))
        assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
        assert len(source.bad) == 0


@pytest.mark.parametrize("data", [{"order": "blocks"}, {"cache": "memory"}])
@pytest.mark.parametrize("form", ["folder", "synthetic"])
def test_config_blocks_or_cache_without_shards_rejected(data, form):
    """Both work on the files of shards."""
    with pytest.raises(InvalidConfig, match="requires shards"):
        resolve({"data": {"format": form, **data}})
