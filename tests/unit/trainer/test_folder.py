"""Datasets in class folders instead of shards: the same images and batches, and no file is written."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext_trainer.cli.config_summary import count_images
from resnext_trainer.cli.main import main
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import class_names
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import Shard, open_dataset, open_input_pipeline
from resnext_trainer.data.pipelines import dali
from resnext_trainer.errors import TrainingError
from tests.support.images import uniform


@pytest.fixture
def config(few, pictures):
    return few | {"data": {"format": "folder", "path": str(pictures), "pipeline": "tfdata"}}


RED = uniform("red", (20, 12), "PNG")


def batches(settings, **data):
    source = open_input_pipeline(resolve(settings | {"data": settings["data"] | data}), Shard(0, 1))
    return [(np.asarray(images), np.asarray(labels)) for images, labels in source.train(0)]


def test_folder_content_equals_shards(few, config):
    """A folder dataset has the images and labels of the shards with the same images."""

    def content(settings, split):
        found = open_dataset(resolve(settings), split)
        return sorted(found.read(number) for number in range(len(found)))

    for split in tfrecord.SPLITS:
        assert content(config, split) == content(few, split)
    assert count_images(resolve(config), None).training == 96


@pytest.mark.parametrize("pipeline", ["tfdata", "dali"])
def test_folder_epoch_reads_each_image_once(config, pipeline):
    """Each image is read once per epoch, with the label of its folder."""
    if pipeline == "dali" and not dali.loads():
        pytest.skip("DALI is not installed")
    labels = np.concatenate([labels for _, labels in batches(config, pipeline=pipeline)])
    found = open_dataset(resolve(config), "train")
    assert sorted(labels) == sorted(found.read(number)[1] - 1 for number in range(len(found)))


def test_folder_png_converted_and_val_accepted(config, pictures):
    """PNG images are converted to JPEG, and `val` is accepted as the validation folder."""
    (pictures / "validation").rename(pictures / "val")
    (pictures / "val" / "digit-3" / "zz.png").write_bytes(RED)
    found = open_dataset(resolve(config), "validation")
    (number,) = (number for number in range(len(found)) if found.location(number).endswith("zz.png"))
    jpeg, label = found.read(number)
    assert label == 4
    assert np.allclose(np.asarray(Image.open(io.BytesIO(jpeg))), (255, 0, 0), atol=3)


def test_class_names_are_folder_names(config):
    """Class names are the names of the class folders."""
    assert class_names.names(resolve(config)) == [f"digit-{digit}" for digit in range(10)]


def no_training(root):
    (root / "train").rename(root / "training")


def empty_class(root):
    (root / "train" / "digit-99").mkdir()


def untrained_class(root):
    (root / "validation" / "letter-a").mkdir()
    (root / "validation" / "letter-a" / "1.jpg").write_bytes(RED)


def eleventh(root):
    (root / "train" / "digit-99").mkdir()
    (root / "train" / "digit-99" / "1.png").write_bytes(RED)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_training, "pictures/train is not a directory"),
        (empty_class, "11 class directories for training, but model.classes is 10: set model.classes to 11"),
        (untrained_class, "validation/letter-a: "),
        (eleventh, "set model.classes to 11"),
    ],
)
def test_folder_invalid_layout_rejected(config, pictures, damage, words):
    """The message names the folder that is missing, empty, unknown or surplus."""
    damage(pictures)
    with pytest.raises(TrainingError) as caught:
        open_input_pipeline(resolve(config), Shard(0, 1))
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    assert words in caught.value.message


def test_folder_class_without_images_rejected(config, pictures):
    """The number of classes matches, so the missing images are the only error."""
    empty_class(pictures)
    config["model"] |= {"classes": 11}
    with pytest.raises(TrainingError) as caught:
        open_input_pipeline(resolve(config), Shard(0, 1))
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    assert "train/digit-99 contains no file with an image file extension" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"no image", RED[:45]], ids=["empty", "text", "cut"])
def test_folder_undecodable_file_counts_as_bad_record(config, pictures, content):
    """A file that is not an image is skipped up to data.maxBadRecordFraction and rejected above it."""
    bad = pictures / "train" / "digit-5" / "bad.jpg"
    bad.write_bytes(content)
    with pytest.raises(TrainingError, match=r"digit-5/bad\.jpg"):
        batches(config)
    assert len(batches(config, maxBadRecordFraction=0.1)) == 6


class TestOtherFiles:
    """Files among the images that are not images."""

    @pytest.fixture
    def littered(self, pictures):
        """One file of each kind in a class, and two next to the classes."""
        place = pictures / "train" / "digit-5"
        (place / "notes.txt").write_text("notes")
        (place / "dead.jpg").symlink_to("/nowhere")
        (place / "circle.png").symlink_to("circle.png")
        os.mkfifo(place / "pipe.jpg")
        (place / "folder.jpg").mkdir()
        (place / "loop").symlink_to(place)
        (pictures / "train" / "README.md").write_text("flat")
        (pictures / "train" / "lost").symlink_to("/nowhere")
        return pictures

    @pytest.mark.usefixtures("littered")
    def test_folder_other_files_skipped_and_logged(self, config, caplog):
        """Training starts with the same images and order, and the log names the other files."""
        found = open_dataset(resolve(config), "train")
        assert len(found) == 96
        for name in ("notes.txt", "dead.jpg", "circle.png", "pipe.jpg", "digit-5/loop", "README.md", "train/lost"):
            assert name in caplog.text
        assert len(batches(config)) == 6

    def test_folder_symlinks_followed(self, config, pictures, tmp_path):
        """Datasets are often links into a store."""
        (pictures / "train" / "digit-5").rename(tmp_path / "store")
        (pictures / "train" / "digit-5").symlink_to(tmp_path / "store")
        file = next(iter((tmp_path / "store").iterdir()))
        file.rename(tmp_path / "one.jpg")
        file.symlink_to(tmp_path / "one.jpg")
        assert len(open_dataset(resolve(config), "train")) == 96

    def test_folder_named_pipe_is_bad_record(self, config):
        """An image replaced by a pipe does not block the reader; it is a bad record."""
        found = open_dataset(resolve(config), "train")
        file = Path(found.location(0))
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(TrainingError, match="a named pipe"):
            found.read(0)

    def test_validate_folder_reports_bad_and_unused_files(self, littered, capsys):
        """Images are decoded; unusable ones count as bad records, other files are only listed."""
        (littered / "validation" / "digit-3" / "text.jpg").write_text("notes")
        assert main(["data", "validate", "--path", str(littered)]) == 3
        message = capsys.readouterr().err
        assert "text.jpg: it is not an image" in message
        for name in ("dead.jpg", "circle.png", "pipe.jpg", "digit-5/loop", "train/lost"):
            assert f"{name}" in message
        assert "not used: " in message
        assert "6 bad records" in message

    def test_validate_good_folder_exits_0(self, pictures, capsys):
        """Files without an image extension are not an error."""
        (pictures / "train" / "digit-5" / "notes.txt").write_text("notes")
        assert main(["data", "validate", "--path", str(pictures)]) == 0
        output = capsys.readouterr()
        assert "train: 10 shards, 96 records, 10 classes, labels 1 to 10" in output.out
        assert "notes.txt" in output.err

    def test_folder_upper_case_extension_accepted(self, config, pictures):
        """ImageNet's files end in .JPEG."""
        file = next(iter((pictures / "train" / "digit-5").iterdir()))
        file.rename(file.with_suffix(".JPEG"))
        assert len(open_dataset(resolve(config), "train")) == 96
