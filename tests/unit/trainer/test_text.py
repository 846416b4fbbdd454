"""Names of classes and files in arbitrary bytes, and text files in any locale."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.contract import ExitStatus, TerminationReport
from resnext_trainer.data import labels
from resnext_trainer.data.datasets import folder, tfrecord
from resnext_trainer.errors import TrainingError
from resnext_trainer.text import encodable, printable
from tests.support.images import noise

KEPT = (
    "café",
    "日本",
    "a b",
    " leading",
    "trailing ",
    "emoji 🐱",
    "n01440764",
    "\u00a0",
    "نیم‌فاصله",
    "cafe\u0301",
    '"quoted"',
)
REJECTED = {
    b"caf\xe9": r"caf\xe9",
    b"two\nlines": r"two\nlines",
    b"return\r": r"return\r",
    b"tab\tbed": r"tab\tbed",
    "\ufeffmark".encode(): r"\ufeffmark",
    "line\u2028separator": r"line\u2028separator",
    "paragraph\u2029": r"paragraph\u2029",
    "next\u0085line": r"next\x85line",
    b"bell\x07": r"bell\x07",
    b"cut \xe6\x97": r"cut \xe6\x97",
}


def place(*parts):
    return Path(*map(os.fsdecode, map(os.fsencode, parts)))


def classes(root, names):
    for name in names:
        place(root, name).mkdir(parents=True)
        for number in range(2):
            place(root, name, f"{number}.jpg").write_bytes(noise(number, (8, 8)))
    return root


def prepare(root, output):
    return main(["data", "prepare", "--input", str(root), "--output", str(output)])


def test_class_names_unusual_kept_exactly(tmp_path):
    """labels.txt lists them in the order of their bytes."""
    root = classes(tmp_path / "in", KEPT)
    assert prepare(root, tmp_path / "out") == 0
    expected = sorted(KEPT, key=str.encode)
    assert labels.read(tmp_path / "out" / "labels.txt") == expected
    assert (tmp_path / "out" / "labels.txt").read_bytes().decode().split("\n")[:-1] == expected


@pytest.mark.parametrize("name", REJECTED, ids=REJECTED.values())
def test_class_names_unrepresentable_rejected(tmp_path, capsys, name):
    """The message has the escaped name, so that it can be printed."""
    root = classes(tmp_path / "in", ["cat", name])
    assert prepare(root, tmp_path / "out") == 3
    message = capsys.readouterr().err
    assert REJECTED[name] in message
    assert ": rename it" in message
    assert len(message.splitlines()) == 1
    with pytest.raises(TrainingError) as caught:
        folder.listing(root)
    assert TerminationReport(verdict="invalid_data", message=caught.value.message).model_dump_json()


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"two\nlines.jpg", "separator\u2028.jpg".encode()])
def test_file_names_unusual_used_and_escaped(tmp_path, capsys, name):
    """The name of an image appears in messages only."""
    root = classes(tmp_path / "in", ["cat", "dog"])
    file = place(root, "cat", name)
    file.write_bytes(noise(9, (8, 8)))
    assert prepare(root, tmp_path / "out") == 0
    file.write_bytes(b"notes")
    assert prepare(root, tmp_path / "again") == 3
    assert printable(name) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", ["cat", "dog"]),
        (b"cat\ndog", ["cat", "dog"]),
        (b"\xef\xbb\xbfcat\r\ndog\r\n", ["cat", "dog"]),
        ("cat\u2028x\ndog\x85y\n".encode(), ["cat\u2028x", "dog\x85y"]),
        (b"cat\x0b\x0c\x1c\n", ["cat\x0b\x0c\x1c"]),
        (b"", []),
    ],
)
def test_labels_split_at_line_feed_only(tmp_path, content, expected):
    """str.splitlines splits at U+2028 and others as well; Windows editors add a BOM and CR."""
    (tmp_path / "labels.txt").write_bytes(content)
    assert labels.read(tmp_path / "labels.txt") == expected


@pytest.mark.parametrize("text", ["caf\udce9", "\ud800", "é", "a\nb"])
def test_error_message_always_encodable(text):
    """An error message is printed, logged and sent as JSON."""
    message = TrainingError(ExitStatus.INVALID_DATA, text).message
    assert message.encode()
    assert encodable("é") == "é"
    assert "\n" not in printable(text)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_prepare_writes_utf8_in_every_locale(tmp_path, locale):
    """Names, order and plan are the same in locales in which Python uses ASCII for files."""
    root = classes(tmp_path / "in", KEPT)
    here = tmp_path / "here"
    assert prepare(root, here) == 0
    there = tmp_path / "there"
    environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "resnext_trainer", "data"]
    options = ["--input", str(root), "--output", str(there)]
    subprocess.run([*command, "prepare", *options], check=True, env=environment, capture_output=True)
    for file in here.iterdir():
        assert (there / file.name).read_bytes() == file.read_bytes()
    done = subprocess.run([*command, "validate", "--path", str(root / "..")], env=environment, capture_output=True)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert json.loads((there / "prepare.json").read_text(encoding="utf-8"))["classes"] == len(KEPT)
    assert len(tfrecord.open_split(str(there), "train")) == len(KEPT)
