"""Command `data prepare`: from class folders to shards."""

import os
import shutil

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.data import prepare
from resnext_trainer.data.crops import jpeg_size
from resnext_trainer.data.datasets import tfrecord
from tests.support.images import noise


def picture(seed, form="JPEG"):
    return noise(seed, (20, 12), form)


@pytest.fixture
def pictures(tmp_path):
    """Three classes of seven images, including a PNG and an image in a subfolder."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(("cat", "dog", "emu")):
        (folder / name / "deeper").mkdir(parents=True)
        for image in range(6):
            (folder / name / f"{image}.jpg").write_bytes(picture(10 * number + image))
        (folder / name / "deeper" / "x.jpg").write_bytes(picture(10 * number + 9))
    (folder / "emu" / "0.jpg").rename(folder / "emu" / "0.png")
    (folder / "emu" / "0.png").write_bytes(picture(20, "PNG"))
    (folder / ".DS_Store").write_text("")
    (folder / "cat" / ".DS_Store").write_text("")
    return folder


def run(pictures, output, *more):
    return main(["data", "prepare", "--input", str(pictures), "--output", str(output), *map(str, more)])


def records(output, split):
    found = tfrecord.open_split(str(output), split)
    return [found.read(number) for number in range(len(found))]


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_prepare_writes_each_image_once_with_label(pictures, tmp_path, capsys):
    """Each image is in one split, with the label of its class, and the input is unchanged."""
    before = snapshot(pictures)
    assert run(pictures, tmp_path / "out", "--shard-images", 4) == 0
    assert "train: 5 shards, 18 records" in capsys.readouterr().out
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["cat", "dog", "emu"]
    found = records(tmp_path / "out", "train") + records(tmp_path / "out", "validation")
    jpegs = [(path.read_bytes(), 1 + number) for number, name in enumerate(("cat", "dog", "emu"))
             for path in (pictures / name).rglob("[0-9x]*.jpg")]  # fmt: skip
    assert sorted(set(found) & set(jpegs)) == sorted(jpegs)
    ((converted, label),) = set(found) - set(jpegs)
    assert (jpeg_size(converted), label) == ((12, 20), 3)
    assert sorted(label for _, label in records(tmp_path / "out", "validation")) == [1, 2, 3]
    assert snapshot(pictures) == before


def test_prepare_separate_validation_folder_used(pictures, tmp_path):
    """--validation names a folder with the validation images."""
    held = shutil.copytree(pictures / "dog", tmp_path / "held" / "dog").parent
    assert run(pictures, tmp_path / "out", "--validation", held) == 0
    assert [len(records(tmp_path / "out", split)) for split in ("train", "validation")] == [21, 7]
    assert {label for _, label in records(tmp_path / "out", "validation")} == {2}


def test_prepare_resumes_with_missing_shards(pictures, tmp_path):
    """A run after an interruption keeps complete shards and writes the missing ones."""
    run(pictures, tmp_path / "whole", "--shard-images", 4)
    run(pictures, tmp_path / "out", "--shard-images", 4)
    kept, lost = (tmp_path / "out" / f"train-0000{number}-of-00005" for number in (0, 1))
    before = kept.stat().st_mtime_ns
    lost.unlink()
    lost.with_name(f"{lost.name}.tmp").write_bytes(b"half of it")
    assert run(pictures, tmp_path / "out", "--shard-images", 4) == 0
    assert kept.stat().st_mtime_ns == before
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert not list((tmp_path / "out").glob("*.tmp"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"some notes", "not an image in a supported format"),
        (picture(1)[:-40], "truncated or damaged"),
        (picture(1)[:10], "its header ends"),
        (picture(1, "PNG")[:-60], "cannot be decoded"),
    ],
    ids=["empty", "text", "truncated", "header alone", "truncated PNG"],
)
def test_prepare_invalid_image_rejected_or_skipped(pictures, tmp_path, capsys, content, words):
    """An invalid image is named; --skip-bad skips it."""
    bad = pictures / "cat" / "bad.jpg"
    bad.write_bytes(content)
    assert run(pictures, tmp_path / "out") == 3
    message = capsys.readouterr().err
    assert f"{bad}: " in message
    assert words in message
    assert run(pictures, tmp_path / "out", "--skip-bad") == 0
    assert f"skipped: {bad}: " in capsys.readouterr().err
    assert sum(len(records(tmp_path / "out", split)) for split in ("train", "validation")) == 21


def test_prepare_lists_all_invalid_images(pictures, tmp_path, capsys):
    """One run lists all invalid images."""
    for name in ("cat", "dog", "emu"):
        (pictures / name / "bad.jpg").write_text("notes")
    assert run(pictures, tmp_path / "out", "--shard-images", 3) == 3
    assert capsys.readouterr().err.count("bad.jpg: ") == 3


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "is not a directory"),
        ([], "contains no subdirectory"),
        (["a.jpg"], "contains no subdirectory"),
        (["a/a.jpg", "a/b.jpg"], "at least two classes are required"),
        (["a/a.jpg", "a/b.jpg", "b/.hidden"], "b contains no file"),
        (["a/a.jpg", "a/b.jpg", "b/a.jpg"], "b contains only one image"),
    ],
    ids=["missing", "empty", "flat", "one class", "empty class", "one image"],
)
def test_prepare_input_without_class_folders_rejected(tmp_path, capsys, files, words):
    """No output is created if the input has no usable class folders."""
    folder = tmp_path / "other"
    if files is not None:
        folder.mkdir()
    for name in files or ():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture(1))
    assert run(folder, tmp_path / "out") == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prepare_unknown_validation_class_rejected(pictures, tmp_path, capsys):
    """A class of the validation folder must be one of training."""
    held = shutil.copytree(pictures / "dog", tmp_path / "held" / "fox").parent
    assert run(pictures, tmp_path / "out", "--validation", held) == 3
    assert "has no such class" in capsys.readouterr().err


def test_prepare_output_inside_input_rejected(pictures, capsys):
    """The input directory is only read."""
    assert run(pictures, pictures / "shards") == 3
    assert "is inside the input" in capsys.readouterr().err


def test_prepare_other_dataset_not_overwritten(pictures, digits_folder, tmp_path, capsys):
    """Shards of other images, or of another tool, are not overwritten."""
    assert run(pictures, digits_folder) == 3
    assert "from another source" in capsys.readouterr().err
    run(pictures, tmp_path / "out")
    (pictures / "cat" / "new.jpg").write_bytes(picture(99))
    assert run(pictures, tmp_path / "out") == 3
    assert "shards of different images" in capsys.readouterr().err


def test_prepare_dangling_link_rejected(pictures, tmp_path, capsys):
    """The message names a link without a target."""
    (pictures / "cat" / "broken.jpg").symlink_to("/nowhere")
    assert run(pictures, tmp_path / "out") == 3
    assert "broken.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--validation-fraction", "1.5"), ("--validation-fraction", "half"), ("--shard-images", "0")]
)
def test_prepare_option_out_of_range_exits_2(pictures, tmp_path, option):
    """argparse rejects numbers that are out of range."""
    with pytest.raises(SystemExit) as caught:
        run(pictures, tmp_path / "out", *option)
    assert caught.value.code == 2


def test_prepare_full_disk_leaves_no_partial_shard(pictures, tmp_path, monkeypatch):
    """A shard that could not be written completely is removed."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfrecord, "index", full)
    assert run(pictures, tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [prepare.LABELS, "prepare.json"]


class TestOtherFiles:
    """Files among the images that are not images."""

    @pytest.fixture
    def littered(self, pictures):
        """One file of each kind; five of them are unusable."""
        place = pictures / "cat"
        (place / "notes.txt").write_text("notes")
        (place / "dead.jpg").symlink_to("/nowhere")
        (place / "text.jpg").write_text("notes")
        os.mkfifo(place / "pipe.jpg")
        (place / "loop").symlink_to(place)
        (pictures / "gone").symlink_to("/nowhere")
        return pictures

    def test_prepare_unusable_files_rejected(self, littered, tmp_path, capsys):
        """Each unusable file is named, nothing is written, and a pipe does not block."""
        assert run(littered, tmp_path / "out") == 3
        message = capsys.readouterr().err
        for name in ("dead.jpg", "pipe.jpg", "loop", "gone"):
            assert str(name) in message
        assert "--skip-bad" in message
        assert not (tmp_path / "out").exists()

    def test_prepare_skip_bad_skips_unusable_files(self, littered, tmp_path, capsys):
        """Each unusable file is named, and all images are written."""
        assert run(littered, tmp_path / "out", "--skip-bad") == 0
        message = capsys.readouterr().err
        for name in ("dead.jpg", "pipe.jpg", "loop", "gone", "text.jpg"):
            assert "skipped: " in message
            assert str(name) in message
        assert "not used: " in message
        assert "notes.txt" in message
        assert sum(len(records(tmp_path / "out", split)) for split in ("train", "validation")) == 21

    def test_prepare_other_extensions_listed_only(self, pictures, tmp_path, capsys):
        """Notes and lists among images are common."""
        (pictures / "cat" / "notes.txt").write_text("notes")
        assert run(pictures, tmp_path / "out") == 0
        assert "cat/notes.txt" in capsys.readouterr().err

    def test_prepare_permission_denied_rejected(self, pictures, tmp_path, capsys, monkeypatch):
        """Root can read every file, so the system's error is simulated."""
        opened = os.open

        def denied(file, *given, **named):
            if str(file).endswith("3.jpg"):
                raise PermissionError(13, "Permission denied")
            return opened(file, *given, **named)

        monkeypatch.setattr(os, "open", denied)
        assert run(pictures, tmp_path / "out") == 3
        assert "cat/3.jpg: cannot be read: Permission denied" in capsys.readouterr().err
        assert run(pictures, tmp_path / "out", "--skip-bad") == 0

    def test_prepare_many_invalid_files_summarized(self, pictures, tmp_path, capsys):
        """At most 20 files are named."""
        for number in range(300):
            (pictures / "cat" / f"bad{number}.jpg").write_text("notes")
        assert run(pictures, tmp_path / "out", "--skip-bad") == 0
        message = capsys.readouterr().err
        assert message.count("/cat/bad") == 20
        assert "300 x files that are not images" in message
