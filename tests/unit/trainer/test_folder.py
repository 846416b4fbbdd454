"""A folder of class folders in place of shards: the same images, the same batches, and nothing written."""

import io

import numpy as np
import pytest
from PIL import Image

from resnext_trainer import trained
from resnext_trainer.config import resolve
from resnext_trainer.data import Share, dali, examples, open_source, tfrecord
from resnext_trainer.inspect import count_images
from resnext_trainer.refusal import Refused
from resnext_trainer.report import Verdict


@pytest.fixture
def pictures(few_digits, tmp_path):
    """The few digits as files, in the order of their records within each class."""
    root = tmp_path / "pictures"
    for split in tfrecord.SPLITS:
        records = tfrecord.find(str(few_digits), split)
        for number in range(len(records)):
            jpeg, label = records.read(number)
            file = root / split / f"digit-{label - 1}" / f"{number:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg)
    return root


@pytest.fixture
def config(few, pictures):
    return few | {"data": {"format": "folder", "path": str(pictures), "pipeline": "tfdata"}}


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (20, 12), colour).save(stream, "PNG")
    return stream.getvalue()


def batches(settings, **data):
    source = open_source(resolve(settings | {"data": settings["data"] | data}), Share(0, 1))
    return [(np.asarray(images), np.asarray(labels)) for images, labels in source.train(0)]


def test_a_folder_holds_what_the_shards_of_the_same_pictures_hold(few, config):
    def content(settings, split):
        found = examples(resolve(settings), split)
        return sorted(found.read(number) for number in range(len(found)))

    for split in tfrecord.SPLITS:
        assert content(config, split) == content(few, split)
    assert count_images(resolve(config), None).training == 96


@pytest.mark.parametrize("pipeline", ["tfdata", "dali"])
def test_every_picture_of_an_epoch_is_seen_once_with_its_folders_label(config, pipeline):
    assert pipeline == "tfdata" or dali.loads()
    labels = np.concatenate([labels for _, labels in batches(config, pipeline=pipeline)])
    found = examples(resolve(config), "train")
    assert sorted(labels) == sorted(found.read(number)[1] - 1 for number in range(len(found)))


def test_other_formats_are_converted_and_val_is_a_split_too(config, pictures):
    (pictures / "validation").rename(pictures / "val")
    (pictures / "val" / "digit-3" / "zz.png").write_bytes(png("red"))
    found = examples(resolve(config), "validation")
    (number,) = (number for number in range(len(found)) if found.where(number).endswith("zz.png"))
    jpeg, label = found.read(number)
    assert label == 4
    assert np.allclose(np.asarray(Image.open(io.BytesIO(jpeg))), (255, 0, 0), atol=3)


def test_prediction_names_classes_after_their_folders(config):
    assert trained.class_names(resolve(config), None) == [f"digit-{digit}" for digit in range(10)]


def no_training(root):
    (root / "train").rename(root / "training")


def empty_class(root):
    (root / "train" / "digit-99").mkdir()


def stranger(root):
    (root / "validation" / "letter-a").mkdir()
    (root / "validation" / "letter-a" / "1.jpg").write_bytes(png("red"))


def eleventh(root):
    (root / "train" / "digit-99").mkdir()
    (root / "train" / "digit-99" / "1.png").write_bytes(png("red"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_training, "pictures/train is no folder"),
        (empty_class, "11 class folders for training, and model.classes is 10: set it to 11"),
        (stranger, "validation/letter-a is a class that"),
        (eleventh, "set it to 11"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_by_name(config, pictures, damage, words):
    damage(pictures)
    with pytest.raises(Refused) as caught:
        open_source(resolve(config), Share(0, 1))
    assert caught.value.verdict is Verdict.DATA_REFUSED
    assert words in caught.value.message


@pytest.mark.parametrize("content", [b"", b"no image", png("red")[:45]], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_picture_is_skipped_up_to_the_share_and_named_beyond_it(config, pictures, content):
    bad = pictures / "train" / "digit-5" / "bad.jpg"
    bad.write_bytes(content)
    with pytest.raises(Refused, match=r"digit-5/bad\.jpg"):
        batches(config)
    assert len(batches(config, badRecords=0.1)) == 6
