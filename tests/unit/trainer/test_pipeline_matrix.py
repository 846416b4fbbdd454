"""Each pipeline with each resize and order: the same images, exact resume, and the same handling of bad records."""

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_trainer.config.validation import resolve
from resnext_trainer.data import block_order, sampling
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import InputPipeline, Shard, open_input_pipeline
from tests.support.images import encode
from tests.support.pipelines import ORDERS, OTHERS, PIPELINES, RESIZES, assert_same_images

SHARDS = {"train": (20, 20), "validation": (12,)}
"""Records of each shard. The label of record n is n + 1, and identifies it."""
BATCH, EPOCH, SEED = 8, 1, 3

matrix = [
    pytest.mark.parametrize("resize", RESIZES),
    pytest.mark.parametrize("order", ORDERS),
]
each = pytest.mark.parametrize("pipeline", PIPELINES)
each_other = pytest.mark.parametrize("pipeline", OTHERS)
pytestmark = matrix


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """Blocks of four records, and windows of four blocks."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (sampling, block_order):
            monkeypatch.setattr(module, "BLOCK", 4)
            monkeypatch.setattr(module, "WINDOW", 4)
        yield


def picture(number: int) -> bytes:
    """A JPEG of smooth colors with some noise, whose size depends on the number."""
    random = np.random.default_rng(number)
    size = (48 + number % 5, 64 - number % 7)
    smooth = np.asarray(Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize(size)).astype(int)
    noisy = smooth + random.integers(-20, 20, smooth.shape)
    return encode(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), quality=90)


def write(folder: Path, **changed: dict[int, tuple[bytes, int]]) -> None:
    """The dataset with records.index. changed: other images and labels, by split and record."""
    for split, sizes in SHARDS.items():
        records = iter(enumerate((picture(number), number + 1) for number in range(sum(sizes))))
        for shard, size in enumerate(sizes):
            file = folder / tfrecord.shard_name(split, shard, len(sizes))
            tfrecord.write_shard(
                file, (changed.get(split, {}).get(at, image) for at, image in itertools.islice(records, size))
            )
    tfrecord.index_folder(str(folder))


def pipeline_of(folder: Path, pipeline: str, resize: str, order: str) -> InputPipeline:
    data = {"path": str(folder), "pipeline": pipeline, "order": order, "maxBadRecordFraction": 0.5, **RESIZES[resize]}
    config = {
        "model": {"classes": 40, "imageSize": 24},
        "batchSize": BATCH,
        "seed": SEED,
        "augmentation": {"cropArea": [0.6, 1.0]},
        "data": data,
        "device": "cpu",
    }
    return open_input_pipeline(resolve(config), Shard(0, 1))


Batches = list[tuple[np.ndarray, list[int]]]
"""Images and labels of each batch."""


def collected(batches: Any) -> Batches:
    return [(images.numpy(), labels.numpy().tolist()) for images, labels in batches]


def assert_equal(batches: Batches, expected: Batches) -> None:
    assert [labels for _, labels in batches] == [labels for _, labels in expected]
    for (images, _), (expected_images, _) in zip(batches, expected, strict=True):
        assert (images == expected_images).all()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A dataset without a bad record."""
    folder = tmp_path_factory.mktemp("good")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(good):
    """Batches of two epochs and of the validation, by one pipeline object; computed once for each combination."""

    @cache
    def of(*combination: str) -> tuple[Batches, Batches, Batches]:
        source = pipeline_of(good, *combination)
        return collected(source.train(EPOCH)), collected(source.train(EPOCH + 1)), collected(source.validate())

    return of


@each_other
def test_pipeline_images_equal_tfdata(uninterrupted, pipeline, resize, order):
    """The same labels in the same order, and pixels within the documented tolerance."""
    reference = uninterrupted("tfdata", resize, order)
    for batches, expected in zip(uninterrupted(pipeline, resize, order), reference, strict=True):
        assert [labels for _, labels in batches] == [labels for _, labels in expected]
        for (images, _), (theirs, _) in zip(batches, expected, strict=True):
            assert_same_images(pipeline, resize, images, theirs)


@each
@pytest.mark.parametrize("done", [1, 3, 5], ids=["begin", "middle", "end"])
def test_pipeline_resumed_delivers_equal_batches(good, uninterrupted, pipeline, resize, order, done):
    """A new process continues after any batch of an epoch, and with the next epoch."""
    epoch, following, _ = uninterrupted(pipeline, resize, order)
    assert len(epoch) == 5
    resumed = pipeline_of(good, pipeline, resize, order)
    assert_equal(collected(resumed.train(EPOCH, done * BATCH)), epoch[done:])
    if done == len(epoch):
        assert_equal(collected(resumed.train(EPOCH + 1)), following)


DAMAGED = "its checksum does not match: the shard is corrupt, or the index belongs to another shard"
UNDECODABLE = "the image cannot be decoded"
EMPTY = "the image cannot be decoded: it does not start with a JPEG marker"
WRONG = (
    "label 99 is out of range; model.classes 40 and data.firstLabel 1 allow 1 to 40: "
    "set model.classes to match the dataset"
)

REASONS = {
    "train": {0: DAMAGED, 7: EMPTY, 8: DAMAGED, 19: DAMAGED, 20: UNDECODABLE, 39: WRONG},
    "validation": {0: UNDECODABLE, 3: WRONG, 6: DAMAGED, 8: EMPTY, 11: DAMAGED},
}
"""Bad records, with the reasons to be reported. They include the first and last records of both training shards."""


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """The dataset with truncated and empty images, wrong labels, a changed byte, and records overwritten by zeros."""
    folder = tmp_path_factory.mktemp("bad")
    cut, empty = picture(20), b""
    write(
        folder,
        train={7: (empty, 8), 20: (cut[: len(cut) // 3], 21), 39: (picture(39), 99)},
        validation={0: (cut[: len(cut) // 3], 1), 3: (picture(3), 99), 8: (empty, 9)},
    )
    for split, number, zeros in (
        ("train", 0, False),
        ("train", 8, False),
        ("train", 19, True),
        ("validation", 6, True),
        ("validation", 11, False),
    ):
        records = tfrecord.open_split(str(folder), split)
        file, offset, length = records.files[records.file[number]], records.offset[number], records.length[number]
        content = bytearray(file.read_bytes())
        content[offset + length // 2] ^= 1
        if zeros:
            content[offset : offset + length] = bytes(length)
        file.write_bytes(content)
    return folder


def report(folder: Path) -> list[str]:
    """The expected messages, sorted."""
    messages = []
    for split, reasons in REASONS.items():
        places = [
            f"{folder}/{tfrecord.shard_name(split, shard, len(SHARDS[split]))} at byte {offset}"
            for shard in range(len(SHARDS[split]))
            for offset in np.loadtxt(folder / f"{tfrecord.shard_name(split, shard, len(SHARDS[split]))}.idx", int)[:, 0]
        ]
        messages += [f"skipped a {split} record: {places[number]}: {why}" for number, why in reasons.items()]
    return sorted(messages)


@each
def test_pipeline_bad_records_replaced_and_reported_once(bad, uninterrupted, caplog, pipeline, resize, order):
    """A bad training record is replaced by the next good one of the order; a bad validation record is padding."""
    epoch, _, validation = uninterrupted(pipeline, resize, order)
    image_of = {label: image for images, labels in epoch for image, label in zip(images, labels, strict=True)}
    numbers = [label for _, labels in epoch for label in labels]
    assert sorted(numbers) == list(range(40))
    usable = [number not in REASONS["train"] for number in numbers]
    expected = [
        next(numbers[(place + further) % 40] for further in range(40) if usable[(place + further) % 40])
        for place in range(40)
    ]

    source = pipeline_of(bad, pipeline, resize, order)
    batches = collected(source.train(EPOCH))
    assert [label for _, labels in batches for label in labels] == expected
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            assert (image == image_of[label]).all()

    evaluated = collected(source.validate())
    for (images, labels), (clean, clean_labels) in zip(evaluated, validation, strict=True):
        assert labels == [-1 if label in REASONS["validation"] else label for label in clean_labels]
        kept = np.array(labels) >= 0
        assert (images[kept] == clean[kept]).all()

    assert sorted(caplog.messages) == report(bad)
    assert_equal(collected(source.train(EPOCH, 3 * BATCH)), batches[3:])
    assert len(caplog.messages) == 11
    assert source.bad is not None
    assert len(source.bad) == 11
