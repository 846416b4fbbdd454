"""Command `data validate` on shards: checksums, labels, indexes and foreign records."""

import shutil

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.data.datasets import tfrecord


@pytest.fixture
def folder(digits_folder, tmp_path):
    return shutil.copytree(digits_folder, tmp_path / "data")


def validate(folder, *more):
    return main(["data", "validate", "--path", str(folder), *map(str, more)])


def rewritten(folder, name, change):
    """Rewrites the first images of a dataset with one changed; checksums and index are valid."""
    records = tfrecord.open_split(str(folder), name)
    images = [records.read(number) for number in range(20)]
    images[7] = change(*images[7])
    for file in folder.glob(f"{name}-*"):
        file.unlink()
    tfrecord.write(folder, name, images, 1)
    return f"{name}-00000-of-00001 at byte {tfrecord.open_split(str(folder), name).offset[7]}: "


def test_validate_good_dataset_prints_counts(folder, capsys):
    """Shards, records, classes and the range of labels are printed."""
    assert validate(folder, "--classes", 10) == 0
    assert "train: 4 shards, 1,438 records, 10 classes, labels 1 to 10" in capsys.readouterr().out


@pytest.mark.parametrize("byte", [3, 9, 40, -2], ids=["length", "its checksum", "content", "last checksum"])
def test_validate_changed_bytes_all_reported(folder, capsys, byte):
    """Each changed record is reported, even after another damaged record."""
    shard = folder / "train-00002-of-00004"
    records = tfrecord.open_split(str(folder), "train")
    first = records.file.tolist().index(2)
    content = bytearray(shard.read_bytes())
    for number in (first + 5, first + 50):
        at = records.offset[number] + (byte if byte >= 0 else records.length[number] + byte)
        content[at] ^= 1
    shard.write_bytes(content)
    assert validate(folder) == 3
    message = capsys.readouterr().err
    for number in (first + 5, first + 50):
        assert f"{shard} at byte {records.offset[number]}: its checksum does not match" in message
    assert "2 bad records" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda jpeg, label: (jpeg[:-50], label), "truncated or damaged"),
        (lambda _, label: (b"", label), "does not start with a JPEG marker"),
        (lambda _, label: (b"no image", label), "does not start with a JPEG marker"),
        (lambda jpeg, _: (jpeg, 11), "label 11 is not in 1 to 10"),
        (lambda jpeg, _: (jpeg, 0), "label 0 is not in"),
    ],
    ids=["truncated", "empty", "text", "label too great", "label too small"],
)
def test_validate_bad_record_has_file_and_offset(folder, capsys, change, words):
    """The message names shard, offset and cause."""
    where = rewritten(folder, "validation", change)
    assert validate(folder, "--classes", 10) == 3
    message = capsys.readouterr().err
    assert where in message
    assert words in message


def test_validate_foreign_record_reported(folder, capsys):
    """Records that are not a tf.train.Example, or lack the image, are reported."""
    import tensorflow as tf

    shard = folder / "train-00000-of-00004"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(b"no example")
        writer.write(tf.train.Example().SerializeToString())
    tfrecord.index(shard, folder / f"{shard.name}.idx")
    assert validate(folder) == 3
    message = capsys.readouterr().err
    assert f"{shard} at byte 0: the record is not a tf.train.Example" in message
    assert "the record needs one image/encoded" in message


def test_validate_labels_checked_against_labels_txt(folder, capsys):
    """labels.txt next to the shards limits the labels."""
    (folder / "labels.txt").write_text("zero\none\n")
    assert validate(folder) == 3
    assert "is not in 1 to 2" in capsys.readouterr().err


def test_validate_index_of_other_shard_reported(folder, capsys):
    """An index with wrong offsets is reported."""
    index = folder / "train-00000-of-00004.idx"
    first, second, *others = index.read_text().split("\n")
    length = int(first.split()[1]) + int(second.split()[1])
    index.write_text("\n".join([f"0 {length}", *others]))
    assert validate(folder) == 3
    assert "not where the index says" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["missing", "empty", "file"])
def test_validate_path_without_shards_exits_3(tmp_path, capsys, case):
    """The message names the path."""
    folder = tmp_path / "data"
    if case == "empty":
        folder.mkdir()
    if case == "file":
        folder.write_text("")
    assert validate(folder) == 3
    assert str(folder) in capsys.readouterr().err


def test_validate_temporary_index_ignored(folder):
    """A temporary file of an interrupted `data index` is not a shard."""
    (folder / "train-00000-of-00004.tmp-idx").write_text("")
    assert validate(folder) == 0
    assert main(["data", "index", "--path", str(folder)]) == 0
