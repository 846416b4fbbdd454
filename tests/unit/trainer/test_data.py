"""Input data: shards and their indexes, batches, crops, and equality of the tf.data and DALI pipelines."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from resnext_trainer.config.models import Augmentation
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.crops import CropWindow, center_crop, jpeg_size, random_resized_crop
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.datasets.digits import prepare
from resnext_trainer.data.input_pipeline import Shard
from resnext_trainer.data.pipelines import dali
from resnext_trainer.data.pipelines.tfdata import TfData, decoded
from resnext_trainer.data.sampling import Batches
from resnext_trainer.errors import TrainingError
from tests.support.images import encode


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


def test_crop_windows_stay_inside_image():
    """Random crops of any image size lie inside the image; the center crop has the documented size."""
    random = np.random.default_rng(0)
    settings = Augmentation()
    for height, width in [(375, 500), (1, 1), (20, 900), (32, 32)]:
        for _ in range(200):
            cut = random_resized_crop(height, width, settings, random)
            assert 0 <= cut.top <= height - cut.height
            assert 0 <= cut.left <= width - cut.width
            assert min(cut.height, cut.width) > 0
    assert center_crop(375, 500, 0.875) == CropWindow(23, 86, 328, 328)


def test_random_crop_area_and_ratio_within_bounds():
    """The bounds hold within half a pixel per side, because windows are rounded."""
    random = np.random.default_rng(0)
    settings = Augmentation()
    (least, greatest), (narrow, wide) = settings.crop_area, settings.crop_ratio
    cuts = [random_resized_crop(375, 500, settings, random) for _ in range(500)]
    for cut in cuts:
        assert least * 375 * 500 <= (cut.height + 0.5) * (cut.width + 0.5)
        assert (cut.height - 0.5) * (cut.width - 0.5) <= greatest * 375 * 500
        assert narrow <= (cut.width + 0.5) / (cut.height - 0.5)
        assert (cut.width - 0.5) / (cut.height + 0.5) <= wide
    areas = [cut.height * cut.width / (375 * 500) for cut in cuts]
    assert min(areas) < 0.12
    assert max(areas) > 0.8


def test_jpeg_size_reads_header(digits_folder):
    """The size comes from the JPEG header."""
    jpeg, _ = tfrecord.open_split(str(digits_folder), "train").read(0)
    assert jpeg_size(jpeg) == (32, 32)


def picture(size, mode="RGB", **options):
    """JPEG of smooth colors with some noise and subsampled chroma; size is (height, width)."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize(size[::-1])
    noisy = np.asarray(smooth) + random.integers(-20, 20, (*size, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)
    return encode(image, quality=90, **options)


def turned():
    """Exif orientation of a camera held upright."""
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


ODD = {
    "one pixel": picture((1, 1)),
    "a line": picture((1, 700)),
    "a column": picture((700, 1)),
    "a strip": picture((3, 500)),
    "a tower": picture((900, 20)),
    "small and odd": picture((17, 31)),
    "usual": picture((375, 500)),
    "grey": picture((65, 47), "L"),
    "CMYK": picture((65, 47), "CMYK"),
    "progressive": picture((65, 47), progressive=True),
    "full colors": picture((65, 47), subsampling=0),
    "colors of half the width": picture((65, 47), subsampling=1),
    "turned by Exif": picture((65, 47), exif=turned()),
}


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for split in ("train", "validation"):
        tfrecord.write(folder, split, [(jpeg, 1) for jpeg in ODD.values()], 1)
    return folder


@pytest.mark.parametrize("size", [16, 224])
@pytest.mark.skipif(not dali.loads(), reason="DALI is not installed")
def test_pipelines_unusual_jpegs_decode_equally(odd_pictures, size):
    """DALI and tf.data agree on tiny, narrow, grey, CMYK, progressive and rotated images."""
    config = resolve(
        {
            "model": {"classes": 10, "imageSize": size},
            "batchSize": len(ODD),
            "data": {"path": str(odd_pictures)},
            "device": "cpu",
        }
    )
    ours, theirs = TfData(config, Shard(0, 1)), dali.Dali(config, Shard(0, 1))
    for batches in (lambda source: source.train(0), lambda source: source.train(1), lambda source: source.validate()):
        ((images, _),), ((again, _),) = batches(ours), batches(theirs)
        difference = np.abs(images.numpy().astype(int) - again.numpy()).max(axis=(0, 3))
        assert difference[1:-1, 1:-1].max() <= 1
        # At the border DALI repeats the edge pixels of the window; the filters of tf.data and Pillow end there.
        assert difference.max() <= 16


def test_decode_crop_window_matches_pillow():
    """Covers the last column, which libjpeg-turbo's partial decoding gets wrong."""
    for name in ("usual", "grey", "progressive", "full colors", "colors of half the width", "turned by Exif"):
        for top, left, height, width in ((3, 5, 41, 33), (0, 0, 41, 47), (24, 14, 41, 33)):
            ours = decoded(ODD[name], (top, left, height, width), 16).numpy()
            with Image.open(io.BytesIO(ODD[name])) as whole:
                window = whole.convert("RGB").crop((left, top, left + width, top + height))
            theirs = np.asarray(window.resize((16, 16), Image.Resampling.BILINEAR))
            assert np.abs(ours.astype(int) - theirs).max() <= 1, name


@pytest.mark.skipif(not dali.loads(), reason="DALI is not installed")
def test_pipelines_digits_decode_equally(settings):
    """DALI and tf.data return the same labels, and pixels that differ by rounding only."""
    config = resolve(settings)
    ours, dalis = TfData(config, Shard(0, 1)), dali.Dali(config, Shard(0, 1))
    for mine, theirs in ((ours.train(1, 20 * 64), dalis.train(1, 20 * 64)), (ours.validate(), dalis.validate())):
        for (images, labels), (again, labels_again) in zip(mine, theirs, strict=True):
            assert labels.numpy().tolist() == labels_again.numpy().tolist()
            # The resizers round differently: by 1 of 255 at most.
            assert np.abs(images.numpy().astype(int) - again.numpy()).max() <= 1
