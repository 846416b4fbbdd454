"""A folder of class folders in place of shards: the same images, the same batches, and nothing written."""

import io
import os

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


@pytest.fixture
def config(few, pictures):
    return few | {"data": {"format": "folder", "path": str(pictures), "pipeline": "tfdata"}}


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (20, 12), colour).save(stream, "PNG")
    return stream.getvalue()


def batches(settings, **data):
    source = open_input_pipeline(resolve(settings | {"data": settings["data"] | data}), Shard(0, 1))
    return [(np.asarray(images), np.asarray(labels)) for images, labels in source.train(0)]


def test_a_folder_holds_what_the_shards_of_the_same_pictures_hold(few, config):
    def content(settings, split):
        found = open_dataset(resolve(settings), split)
        return sorted(found.read(number) for number in range(len(found)))

    for split in tfrecord.SPLITS:
        assert content(config, split) == content(few, split)
    assert count_images(resolve(config), None).training == 96


@pytest.mark.parametrize("pipeline", ["tfdata", "dali"])
def test_every_picture_of_an_epoch_is_seen_once_with_its_folders_label(config, pipeline):
    if pipeline == "dali" and not dali.loads():
        pytest.skip("DALI is not installed")
    labels = np.concatenate([labels for _, labels in batches(config, pipeline=pipeline)])
    found = open_dataset(resolve(config), "train")
    assert sorted(labels) == sorted(found.read(number)[1] - 1 for number in range(len(found)))


def test_other_formats_are_converted_and_val_is_a_split_too(config, pictures):
    (pictures / "validation").rename(pictures / "val")
    (pictures / "val" / "digit-3" / "zz.png").write_bytes(png("red"))
    found = open_dataset(resolve(config), "validation")
    (number,) = (number for number in range(len(found)) if found.location(number).endswith("zz.png"))
    jpeg, label = found.read(number)
    assert label == 4
    assert np.allclose(np.asarray(Image.open(io.BytesIO(jpeg))), (255, 0, 0), atol=3)


def test_prediction_names_classes_after_their_folders(config):
    assert class_names.names(resolve(config)) == [f"digit-{digit}" for digit in range(10)]


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
    with pytest.raises(TrainingError) as caught:
        open_input_pipeline(resolve(config), Shard(0, 1))
    assert caught.value.verdict is ExitStatus.DATA_REFUSED
    assert words in caught.value.message


def test_class_without_pictures_is_rejected_by_name(config, pictures):
    """The number of classes is right, so that the missing pictures alone are wrong."""
    empty_class(pictures)
    config["model"] |= {"classes": 11}
    with pytest.raises(TrainingError) as caught:
        open_input_pipeline(resolve(config), Shard(0, 1))
    assert caught.value.verdict is ExitStatus.DATA_REFUSED
    assert "train/digit-99 holds no file with a picture's extension" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"no image", png("red")[:45]], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_picture_is_skipped_up_to_the_share_and_named_beyond_it(config, pictures, content):
    bad = pictures / "train" / "digit-5" / "bad.jpg"
    bad.write_bytes(content)
    with pytest.raises(TrainingError, match=r"digit-5/bad\.jpg"):
        batches(config)
    assert len(batches(config, badRecords=0.1)) == 6


class TestOtherFiles:
    """What lies among the pictures and is none."""

    @pytest.fixture
    def littered(self, pictures):
        """One of each kind in a class, and two beside the classes."""
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
    def test_only_pictures_are_used_and_the_rest_is_named(self, config, caplog):
        """A training starts, with the same pictures and order, and the log names the others."""
        found = open_dataset(resolve(config), "train")
        assert len(found) == 96
        for name in ("notes.txt", "dead.jpg", "circle.png", "pipe.jpg", "digit-5/loop", "README.md", "train/lost"):
            assert name in caplog.text
        assert len(batches(config)) == 6

    def test_links_to_pictures_and_folders_are_followed(self, config, pictures, tmp_path):
        """Data sets are often links into a store."""
        (pictures / "train" / "digit-5").rename(tmp_path / "store")
        (pictures / "train" / "digit-5").symlink_to(tmp_path / "store")
        file = next(iter((tmp_path / "store").iterdir()))
        file.rename(tmp_path / "one.jpg")
        file.symlink_to(tmp_path / "one.jpg")
        assert len(open_dataset(resolve(config), "train")) == 96

    def test_file_that_became_a_pipe_does_not_block(self, config):
        """It is one bad picture."""
        found = open_dataset(resolve(config), "train")
        found.files[0].unlink()
        os.mkfifo(found.files[0])
        with pytest.raises(TrainingError, match="a named pipe"):
            found.read(0)

    def test_validate_checks_folders(self, littered, capsys):
        """Pictures are decoded; what cannot be used counts as bad, other files are only named."""
        (littered / "validation" / "digit-3" / "text.jpg").write_text("notes")
        assert main(["data", "validate", "--path", str(littered)]) == 3
        message = capsys.readouterr().err
        assert "text.jpg: it is no image" in message
        for name in ("dead.jpg", "circle.png", "pipe.jpg", "digit-5/loop", "train/lost"):
            assert f"{name}" in message
        assert "not used: " in message
        assert "6 bad records" in message

    def test_validate_accepts_a_good_folder(self, pictures, capsys):
        """Files without a picture's extension are no fault."""
        (pictures / "train" / "digit-5" / "notes.txt").write_text("notes")
        assert main(["data", "validate", "--path", str(pictures)]) == 0
        output = capsys.readouterr()
        assert "train: 10 shards, 96 records, 10 classes, labels 1 to 10" in output.out
        assert "notes.txt" in output.err

    def test_extension_may_be_in_capitals(self, config, pictures):
        """ImageNet's files end in .JPEG."""
        file = next(iter((pictures / "train" / "digit-5").iterdir()))
        file.rename(file.with_suffix(".JPEG"))
        assert len(open_dataset(resolve(config), "train")) == 96
