"""Shards of a split: all are used, or the split is rejected with the file names."""

import gzip
import os
import shutil
import socket
import zlib

import numpy as np
import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import shards
from resnext_trainer.data.bad_records import BadRecords
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.datasets.record_framing import checksum
from resnext_trainer.data.input_pipeline import open_dataset
from resnext_trainer.data.problem_summary import NAMED, Summary
from resnext_trainer.errors import TrainingError
from tests.support.images import uniform


@pytest.fixture
def folder(few_digits, tmp_path):
    """Two shards of training, two of validation."""
    return shutil.copytree(few_digits, tmp_path / "data")


@pytest.fixture
def four(folder):
    """Four shards of training instead."""
    records = tfrecord.open_split(str(folder), "train")
    pictures = [records.read(number) for number in range(16)]
    for file in folder.glob("train-*"):
        file.unlink()
    tfrecord.write(folder, "train", pictures, 4)
    return folder


def found(folder, **options):
    return [file.name for file in shards.find(folder, "train", **options)]


def refusal(folder, **options):
    with pytest.raises(TrainingError) as caught:
        tfrecord.open_split(str(folder), "train", **options)
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    return caught.value.message


def code(command, folder, *more):
    return main(["data", command, "--path", str(folder), *map(str, more)])


class TestShardNumbering:
    """Numbers in the names of shards."""

    @pytest.mark.parametrize("lost", [[0], [3], [1, 2]])
    def test_shard_missing_rejected_by_all_commands(self, four, capsys, lost):
        """Covers index, validate and training, and a shard without its index."""
        names = [f"train-{number:05d}-of-00004" for number in lost]
        for name in names:
            (four / name).unlink()
            (four / f"{name}.idx").unlink()
        words = (
            f"{', '.join(names)} {'is' if len(lost) == 1 else 'are'} missing (found {4 - len(lost)} of 4 train shards"
        )
        for command in ("index", "validate"):
            assert code(command, four) == 3
            assert words in capsys.readouterr().err
        with pytest.raises(TrainingError, match=names[0]):
            open_dataset(resolve({"data": {"path": str(four)}}), "train")

    def test_shard_subset_allowed_by_incomplete_shards(self, four):
        """Covers data.incompleteShards and the command-line option."""
        (four / "train-00001-of-00004").unlink()
        assert code("index", four, "--incomplete-shards", "allow") == 0
        assert code("validate", four, "--incomplete-shards", "allow") == 0
        subset = {"path": str(four), "incompleteShards": "allow"}
        assert len(open_dataset(resolve({"data": subset}), "train")) == 12

    def test_shards_two_totals_rejected(self, four):
        """Images would count twice."""
        (four / "train-00000-of-00008").write_bytes((four / "train-00000-of-00004").read_bytes())
        message = refusal(four, incomplete=True)
        assert "2 different sets" in message
        assert "train-00000-of-00008" in message

    def test_shards_two_suffixes_rejected(self, four):
        """A copy with .tfrecord next to the shards is a second set."""
        (four / "train-00000-of-00004.tfrecord").write_bytes((four / "train-00000-of-00004").read_bytes())
        assert "train-00000-of-00004.tfrecord" in refusal(four)

    def test_shard_number_above_total_rejected(self, four):
        """There is no shard 7 of 4."""
        (four / "train-00007-of-00004").write_bytes((four / "train-00000-of-00004").read_bytes())
        assert "train-00007-of-00004" in refusal(four)

    def test_shard_duplicate_number_rejected(self, four):
        """Numbers may be written with fewer digits."""
        (four / "train-1-of-00004").write_bytes((four / "train-00001-of-00004").read_bytes())
        assert "train-1-of-00004" in refusal(four)

    def test_shards_numbered_from_1_accepted(self, four):
        """Some tools count shards from 1."""
        for number in reversed(range(4)):
            (four / f"train-{number:05d}-of-00004").rename(four / f"train-{number + 1:05d}-of-00004")
        assert len(found(four)) == 4
        (four / "train-00002-of-00004").unlink()
        assert "train-00002-of-00004 is missing" in refusal(four)

    @pytest.mark.parametrize(
        "form", ["train-{}-of-12", "train-{:05d}-of-00012.tfrecord", "train-{:03d}-of-012.tfrecords"]
    )
    def test_shards_common_names_accepted(self, tmp_path, form):
        """Accepts any number of digits and the usual suffixes."""
        for number in range(12):
            (tmp_path / form.format(number)).write_bytes(b"x")
        assert len(found(tmp_path)) == 12

    @pytest.mark.parametrize(
        "names", [["train.tfrecord"], ["train-a", "train-b"], ["train_0.tfrecord", "train_1.tfrecord"]]
    )
    def test_shards_names_without_total_accepted(self, tmp_path, names):
        """The expected number of shards is then unknown."""
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        assert found(tmp_path) == names

    def test_shards_many_missing_summarized(self, tmp_path):
        """The message names 20 shards."""
        (tmp_path / "train-00005-of-10000").write_bytes(b"x")
        message = refusal(tmp_path)
        assert message.count("of-10000") == NAMED
        assert "and 9,979 more" in message


class TestUnexpectedFiles:
    """Files next to the shards, and shards that are not regular files."""

    @pytest.mark.parametrize(
        "name",
        [
            "train-00001-of-00004.bak", "train-00001-of-00004.part", "train-00001-of-00004.tmp", "train-00001-of-00004~",  # noqa: E501
            "train-00001-of-00004.gz", "train-00001-of-00004 (copy)", "train-00001-of-00004.1", "train_labels.csv",
            "training-00000-of-00004", "train-extra", "train.txt",
        ],
    )  # fmt: skip
    def test_shards_unknown_file_of_split_rejected(self, four, name):
        """Such a file may be part of the dataset or a leftover, so the user must decide."""
        (four / name).write_bytes((four / "train-00001-of-00004").read_bytes())
        assert name in refusal(four, incomplete=True)

    @pytest.mark.parametrize("name", [".train-00001-of-00004.swp", "train-00001-of-00004.tmp-idx", "notes", "train"])
    def test_shards_hidden_files_and_folders_skipped(self, four, name):
        """They are never read."""
        if name == "train":
            (four / name).mkdir()
        else:
            (four / name).write_bytes(b"")
        assert len(found(four)) == 4

    @pytest.mark.parametrize("kind", ["dead link", "pipe", "socket", "folder", "circle"])
    def test_shard_not_regular_file_rejected(self, four, kind):
        """A pipe would block the reader forever."""
        shard = four / "train-00002-of-00004"
        shard.unlink()
        if kind == "dead link":
            shard.symlink_to("/nowhere")
        elif kind == "circle":
            shard.symlink_to(shard.name)
        elif kind == "pipe":
            os.mkfifo(shard)
        elif kind == "folder":
            shard.mkdir()
        else:
            here = os.open(four, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"/proc/self/fd/{here}/{shard.name}")
            os.close(here)
        assert f"{shard.name} is " in refusal(four)

    def test_shard_symlink_followed(self, four, tmp_path):
        """Datasets are often links into a store."""
        (four / "train-00002-of-00004").rename(tmp_path / "elsewhere")
        (four / "train-00002-of-00004").symlink_to(tmp_path / "elsewhere")
        assert len(found(four)) == 4

    def test_index_named_pipe_rejected(self, four):
        """The reader does not block on a pipe."""
        (four / "train-00002-of-00004.idx").unlink()
        os.mkfifo(four / "train-00002-of-00004.idx")
        assert "train-00002-of-00004.idx is not a valid index" in refusal(four)

    def test_shard_empty_rejected_unless_subset(self, four):
        """An interrupted copy leaves an empty file."""
        for name in ("train-00002-of-00004", "train-00002-of-00004.idx"):
            (four / name).write_bytes(b"")
        assert "train-00002-of-00004 is empty" in refusal(four)
        assert len(tfrecord.open_split(str(four), "train", incomplete=True)) == 12

    def test_shards_other_split_names_suggested(self, tmp_path):
        """TensorFlow Datasets puts the dataset's name first."""
        (tmp_path / "imagenet2012-train.tfrecord-00000-of-01024").write_bytes(b"x")
        assert "found imagenet2012-train.tfrecord-00000-of-01024" in refusal(tmp_path)


KINDS = {
    "gzip": (gzip.compress(bytes(99)), "compressed with gzip"),
    "zlib": (zlib.compress(bytes(99)), "compressed with zlib"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "compressed with zstd"),
    "zip": (b"PK\x03\x04" + bytes(9), "a zip archive"),
    "tar": (b"a".ljust(257, b"\0") + b"ustar" + bytes(99), "a tar archive"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
    "annex": (b"/annex/objects/SHA256E-s1--0\n", "a git-annex pointer"),
    "HTML": (b"\n<!DOCTYPE html><html><body>404", "an HTML page"),
    "XML": (b"<?xml version='1.0'?><Error>", "XML"),
    "JSON": (b'{"error": "denied"}', "JSON"),
    "MD5": (b"d41d8cd98f00b204e9800998ecf8427e  train-00000-of-00004\n", "a list of checksums"),
    "SHA": (b"a" * 64 + b" *train-00000-of-00004\n", "a list of checksums"),
    "BSD sums": (b"SHA256 (train-00000-of-00004) = 00\n", "a list of checksums"),
    "text": ("naïve notes\n".encode() * 90, "text"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG"),
    "zeros": (bytes(4096), "starts with zeros"),
    "noise": (b"\x01\x02\x03\xfe" * 99, "not a TFRecord file"),
    "short": (b"\x01\x02", "not a TFRecord file"),
}


@pytest.mark.parametrize("case", KINDS)
def test_shard_other_file_format_recognized(four, capsys, case):
    """Covers indexing, a missing index, and an index of the shard that the file replaced."""
    content, words = KINDS[case]
    shard = four / "train-00000-of-00004"
    whole = shard.stat().st_size
    shard.write_bytes(content)
    assert code("index", four) == 3
    message = capsys.readouterr().err
    assert str(shard) in message
    assert words in message
    shard.write_bytes(content.ljust(whole, content[-1:]))
    if case != "short":
        assert words in refusal(four)


def test_shard_damaged_first_record_is_bad_record(four):
    """One bad record among good ones is handled by maxBadRecordFraction."""
    shard = four / "train-00000-of-00004"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    records = tfrecord.open_split(str(four), "train")
    with pytest.raises(TrainingError, match="its checksum does not match"):
        records.read(0)
    assert records.read(1)


def test_index_damaged_length_rejected(four, capsys):
    """The next record cannot be found."""
    shard = four / "train-00000-of-00004"
    second = tfrecord.open_split(str(four), "train").offset[1]
    content = bytearray(shard.read_bytes())
    content[second + 1] ^= 1
    shard.write_bytes(content)
    assert code("index", four) == 3
    assert f"record 1 at byte {second}" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".idx", ""])
def test_index_path_separate_folder_used(four, tmp_path, suffix):
    """NVIDIA's scripts name an index like its shard."""
    (tmp_path / "indexes").mkdir()
    for index in four.glob("*.idx"):
        index.rename(tmp_path / "indexes" / (index.name.removesuffix(".idx") + suffix))
    assert len(tfrecord.open_split(str(four), "train", str(tmp_path / "indexes"))) == 16
    assert "is missing" in refusal(four, index_path=str(four))


def dialect(folder, **features):
    """Rewrites both splits: each record has these features.

    features: bytes, None (the JPEG), or a function from the number of the record to its label.
    """
    from tensorflow.core.example.example_pb2 import Example

    records = tfrecord.open_split(str(folder), "train")
    jpegs = [records.read(number)[0] for number in range(30)]
    for file in (*folder.glob("train-*"), *folder.glob("validation-*")):
        file.unlink()

    def contents():
        for number, jpeg in enumerate(jpegs):
            example = Example()
            for name, value in features.items():
                if callable(value):
                    example.features.feature[name.replace("__", "/")].int64_list.value.append(value(number))
                else:
                    example.features.feature[name.replace("__", "/")].bytes_list.value.append(value or jpeg)
            yield example.SerializeToString()

    for split in tfrecord.SPLITS:
        shard = folder / f"{split}-00000-of-00001"
        with shard.open("wb") as stream:
            for content in contents():
                length = len(content).to_bytes(8, "little")
                for part in (length, content):
                    stream.write(part + checksum(part).to_bytes(4, "little"))
        tfrecord.index(shard, folder / f"{shard.name}.idx")


class TestFeatureNames:
    """Records with other features, image formats or labels."""

    def test_validate_other_feature_names_suggest_settings(self, folder, capsys):
        """The message suggests TensorFlow Datasets' names; with the suggested settings the dataset is read."""
        dialect(folder, image=None, label=lambda number: number % 3, file_name=b"x.JPEG")
        assert code("validate", folder) == 3
        message = capsys.readouterr().err
        assert "file_name (bytes), image (bytes), label (integers)" in message
        assert message.count("data.imageFeature to image and data.labelFeature to label") == 1
        assert message.count("-of-00001 at byte") == NAMED
        options = ["--image-feature", "image", "--label-feature", "label", "--first-label", "0", "--classes", "3"]
        assert code("validate", folder, *options) == 0
        data = {"path": str(folder), "imageFeature": "image", "labelFeature": "label"}
        assert open_dataset(resolve({"data": data}), "train").read(4)[1] == 1

    def test_validate_png_records_summarized(self, folder, capsys):
        """A single line contains the problem and the remedy."""
        png = uniform("black", (9, 9), "PNG")
        dialect(folder, image__encoded=png, image__class__label=lambda number: 1 + number % 3)
        assert code("validate", folder) == 3
        message = capsys.readouterr().err
        assert message.count("data prepare") == 1
        assert "60 x records: image/encoded contains PNG" in message

    @pytest.mark.parametrize(("labels", "first", "advice"), [((0, 2), 1, 0), ((1, 3), 0, 1)])
    def test_validate_shifted_labels_suggest_first_label(self, folder, capsys, labels, first, advice):
        """The message names the value of data.firstLabel with which all labels are valid."""
        least, greatest = labels
        dialect(folder, image__encoded=None, image__class__label=lambda number: least + number % 3)
        assert code("validate", folder, "--classes", 3, "--first-label", first) == 3
        message = capsys.readouterr().err
        assert f"labels are {least} to {greatest}: set data.firstLabel to {advice}" in message
        assert code("validate", folder, "--classes", 3, "--first-label", advice) == 0

    def test_validate_label_below_first_rejected(self, folder, capsys):
        """A label of 0 is never valid where labels count from 1."""
        dialect(folder, image__encoded=None, image__class__label=lambda number: number % 3)
        assert code("validate", folder) == 3
        assert "set data.firstLabel to 0" in capsys.readouterr().err

    @pytest.mark.parametrize("label", [-1, 10**12])
    def test_validate_implausible_labels_rejected(self, folder, capsys, label):
        """Labels are bounded, so that counting them needs little memory."""
        dialect(folder, image__encoded=None, image__class__label=lambda _: label)
        assert code("validate", folder) == 3
        assert "data.labelFeature" in capsys.readouterr().err


class TestSummary:
    """Memory and output stay small for any number of problems."""

    def test_summary_size_bounded_for_many_problems(self):
        """200,000 problems of 100,001 causes fit into 60 lines."""
        summary = Summary()
        for number in range(100_000):
            summary.add(f"cause {number}", f"record {number}")
            summary.add("one cause", f"record {number}")
        assert len(summary) == 200_000
        lines = list(summary.lines())
        assert len(lines) <= 3 * NAMED
        assert sum(line.startswith("  record") for line in lines) <= NAMED

    def test_summary_merge_adds_counts(self):
        """Several threads validate shards, each with its own summary."""
        first, second = Summary(), Summary()
        for number in range(30):
            first.add("damaged", f"a{number}")
            second.add("damaged", f"b{number}")
            second.add("empty", f"c{number}")
        first.merge(second)
        lines = list(first.lines())
        assert lines[0] == "60 x damaged"
        assert "30 x empty" in lines
        assert sum(line.startswith("  ") and "more" not in line for line in lines) == NAMED

    def test_bad_records_use_one_bit_per_record(self, caplog):
        """1.3 million records need less than 2 MB, and the log names the first bad ones."""
        import tracemalloc

        reason = shards.data_error("/data/train-0 at byte 0: its checksum does not match")
        tracemalloc.start()
        bad = BadRecords(1.0, {"train": 1_300_000, "validation": 10})
        for number in range(0, 1_300_000, 13):
            bad.add("train", number, reason)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(bad) == 100_000
        assert ("train", 13) in bad
        assert ("train", 14) not in bad
        assert peak < 2_000_000
        assert len(caplog.messages) < 2 * NAMED
        assert sum(np.bitwise_count(marks).sum() for marks in bad.marks.values()) == 100_000
