"""Invalid input files: missing, empty, truncated, of another format or out of range. Each reader rejects them by name.

The tests of checkpoints, shards, images and logs cover damaged files of those kinds.
"""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.cli.main import main
from resnext_trainer.config import loading
from resnext_trainer.config.validation import InvalidConfig
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.crops import jpeg_size
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.errors import TrainingError
from tests.support.checkpoints import FORMAT_1


def laid(path: Path, content):
    """Creates a file with these bytes, a folder (Path), or nothing (None)."""
    if content is Path:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    return path


CONFIGURATIONS = {
    "missing": (None, "--config {}: No such file"),
    "a folder": (Path, "--config {}: Is a directory"),
    "empty": (b"", "--config {}: no settings found"),
    "null": (b"null", "--config {}: no settings found"),
    "bytes": (b"\x80\xff", "--config {}: no settings found"),
    "cut": (b'{"epochs": 3, "model"', "--config {}: neither YAML nor JSON"),
    "another resource": (b"kind: Pod\nspec: [1]", "--config {}: no settings found"),
    "a circle": (b"model: &it [*it]", "--config {}: neither YAML nor JSON"),
    "a set": (b"epochs: !!set {a, b}", "spec.training.epochs: Invalid value: {{}}: should be a valid integer"),
    "a thousand levels": (b"[" * 5000, "--config {}: neither YAML nor JSON"),
    "a date": (b"epochs: 2026-01-01", 'spec.training.epochs: Invalid value: "2026-01-01"'),
    "a date that is none": (b"epochs: 2026-99-99", 'spec.training.epochs: Invalid value: "2026-99-99"'),
    "not a number": (
        b"epochs: .nan",
        "--config {}: neither YAML nor JSON: line 1: .nan: JSON does not support this number: use a finite one",
    ),
    "infinite": (
        b"optimizer: {learningRate: .inf}",
        "--config {}: neither YAML nor JSON: line 1: .inf: JSON does not support",
    ),
    "a list for an object": (b"model: [1]", "spec.training.model: Invalid value: [1]: should be an object"),
    "out of range": (b"epochs: -3", "spec.training.epochs: Invalid value: -3: should be greater than or equal to 1"),
    "a number for a name": (b"1: 2", 'unknown field "1" in spec.training'),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_config_invalid_file_rejected(tmp_path, case):
    """A file that is not a training configuration is rejected with its path and the cause."""
    content, words = CONFIGURATIONS[case]
    file = laid(tmp_path / "config.yaml", content)
    with pytest.raises(InvalidConfig, match=re.escape(words.format(file))):
        loading.read(file)


@pytest.mark.parametrize("value", ["2026-99-99", "[", "{a: 1", "!!set {a", "&it [*it]"])
def test_set_value_not_yaml_kept_as_string(value):
    """A --set value that is not valid YAML is a string."""
    assert loading.read(None, [f"data.path={value}"]).data.path == value


INDEXES = {
    "missing": (None, "is missing"),
    "a folder": (Path, "is not a valid index"),
    "empty": (b"", "its index ends at 0"),
    "text": (b"offset length\n", "is not a valid index"),
    "bytes": (b"\x80\xff", "is not a valid index"),
    "half a line": (b"0 100\n100", "is not a valid index"),
    "a gap": (b"0 100\n150 100\n", "is not a valid index"),
    "below zero": (b"-100 100\n0 100\n", "is not a valid index"),
    "shorter than any record": (b"0 3\n", "is not a valid index"),
    "longer than the shard": (b"0 1000000000000000\n", "is truncated"),
    "beyond 64 bits": (b"0 99999999999999999999999\n", "is not a valid index"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_index_invalid_content_rejected(few_digits, tmp_path, case):
    """An invalid index is rejected as bad data, and the message names its shard."""
    content, words = INDEXES[case]
    folder = shutil.copytree(few_digits, tmp_path / "data")
    index = folder / "train-00001-of-00002.idx"
    index.unlink()
    laid(index, content)
    with pytest.raises(TrainingError, match=words) as caught:
        tfrecord.open_split(str(folder), "train")
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    assert str(index).removesuffix(".idx") in caught.value.message


def header(height, width):
    """Start of a JPEG, up to its size."""
    return b"\xff\xd8\xff\xc0\x00\x11\x08" + height.to_bytes(2) + width.to_bytes(2) + bytes(20)


@pytest.mark.parametrize(
    ("jpeg", "words"),
    [
        (b"", "does not start with a JPEG marker"),
        (b"\x89PNG", "does not start with a JPEG marker"),
        (b"\xff\xd8\xff\xe0", "header ends before the size"),
        (header(0, 100), "its header declares 100 x 0 pixels"),
        (header(100, 0), "its header declares 0 x 100 pixels"),
        (header(65_500, 65_500), "its header declares 65500 x 65500 pixels"),
    ],
    ids=["empty", "PNG", "cut", "no height", "no width", "too many pixels"],
)
def test_jpeg_size_implausible_header_rejected(jpeg, words):
    """A JPEG header without a plausible image size is rejected."""
    with pytest.raises(ValueError, match=words):
        jpeg_size(jpeg)


STATE = {"position": {"step": 1}, "time": "2026-01-01T00:00:00+00:00", "sha256": ""}

STATES = {
    "empty": b"",
    "cut": json.dumps(STATE).encode()[:-5],
    "bytes": b"\x80\xff",
    "null": b"null",
    "a list": b"[]",
    "nothing in it": b"{}",
    "a text for the position": json.dumps(STATE | {"position": "here"}).encode(),
    "a text for the step": json.dumps(STATE | {"position": {"step": "many"}}).encode(),
    "a step below zero": json.dumps(STATE | {"position": {"step": -1}}).encode(),
    "a time that is none": json.dumps(STATE | {"time": "soon"}).encode(),
    "a checksum of other arrays": json.dumps(STATE).encode(),
}


@pytest.mark.parametrize("case", STATES)
def test_checkpoint_invalid_state_json_is_corrupt(tmp_path, case):
    """A checkpoint whose state.json is invalid counts as corrupt."""
    saved = store.save(tmp_path, TrainingPosition(step=1), {"a": np.array(1, np.float32)}, 1, 3)
    Path(saved.path, "state.json").write_bytes(STATES[case])
    with pytest.raises(TrainingError, match="none is valid") as caught:
        store.newest(tmp_path)
    assert caught.value.verdict is ExitStatus.NO_VALID_CHECKPOINT


def test_checkpoint_wrong_dtype_or_not_directory_rejected(tmp_path):
    """Arrays that are not float32, and a file instead of a checkpoint directory, are rejected."""
    with pytest.raises(ValueError, match="a is not float32"):
        store.read(Path(store.save(tmp_path, TrainingPosition(step=1), {"a": np.array(1, np.int64)}, 1, 3).path))
    laid(tmp_path / "step-00000002-attempt-0001", b"")
    with pytest.raises(TrainingError, match="contains 2 checkpoints and none is valid"):
        store.newest(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "contains no class names"), (b"\x80\xff", "is not UTF-8 text")], ids=["empty", "bytes"]
)
def test_validate_invalid_labels_txt_rejected(few_digits, tmp_path, capsys, content, words):
    """`data validate` rejects a labels.txt that is empty or not text."""
    folder = shutil.copytree(few_digits, tmp_path / "data")
    labels = laid(folder / "labels.txt", content)
    assert main(["data", "validate", "--path", str(folder)]) == 3
    assert f"{labels} {words}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 2, "cannot be read"),
        (Path, 2, "cannot be read"),
        (b"", 2, "has 0 class names"),
        (b"\x80\xff", 2, "cannot be read"),
        (b"cat\ndog\n", 2, "has 2 class names"),
    ],
    ids=["missing", "a folder", "empty", "bytes", "too few"],
)
def test_predict_mismatched_labels_file_rejected(tmp_path, capsys, monkeypatch, content, code, words):
    """`predict` rejects a labels file that is unreadable or has the wrong number of classes."""
    labels = laid(tmp_path / "names.txt", content)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    options = ["--labels", str(labels), "--config", str(FORMAT_1 / "config.yaml")]
    options += ["--set", f"checkpoint.path={FORMAT_1 / 'run'}"]
    assert main(["predict", "-", *options]) == code
    message = capsys.readouterr().err
    assert str(labels) in message
    assert words in message


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 3, "does not exist"),
        (Path, 3, "does not exist"),
        (b"", 3, "contains no records"),
        (b"\x80\xff", 3, "contains no records"),
        (b'{"step": 1, "epoch"', 3, "contains no records"),
        (b'{"step": -1, "epoch": 0.1}', 3, "contains no records"),
        (b'{"step": "one", "epoch": 0.1}', 3, "contains no records"),
    ],
    ids=["missing", "an empty folder", "empty", "bytes", "cut", "below zero", "a text for a step"],
)
def test_report_invalid_log_rejected(tmp_path, capsys, content, code, words):
    """`report` rejects a log that is missing or has no valid record."""
    log = laid(tmp_path / "run", content)
    assert main(["report", str(log), "--output", str(tmp_path / "page.html")]) == code
    message = capsys.readouterr().err
    assert str(log) in message
    assert words in message
