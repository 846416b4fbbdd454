"""Faults of the process and its node: retried with file and errno, never reported as bad data."""

import errno
import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.cli import train as train_command
from resnext_trainer.cli.main import main
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import image_codec, open_files
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import Shard, open_input_pipeline
from resnext_trainer.data.open_files import OpenFiles, PooledFile
from resnext_trainer.data.pipelines import dali
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.errors import TrainingError, system_error, system_errors
from resnext_trainer.runtime import limits, signals
from resnext_trainer.runtime.signals import Requests
from tests.support.descriptors import open_under

OF_THE_SYSTEM = ("EMFILE", "ENFILE", "ENOMEM", "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EAGAIN", "EREMOTEIO")
OF_THE_FILE = ("ENOENT", "EACCES", "EPERM", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENXIO")


def failing(number, when=lambda _: True):
    """Replacement for os.pread or os.open that raises an operating-system error."""

    def call(original):
        def replaced(*given, **named):
            if when(given[0]):
                raise OSError(number, os.strerror(number))
            return original(*given, **named)

        return replaced

    return call


@pytest.fixture(params=["tfrecord", "folder"])
def data(request, few_digits, tmp_path):
    """The same images in both formats; up to a tenth may be bad."""
    if request.param == "folder":
        for split in tfrecord.SPLITS:
            records = tfrecord.open_split(str(few_digits), split)
            for number in range(len(records)):
                jpeg, label = records.read(number)
                (tmp_path / split / str(label)).mkdir(parents=True, exist_ok=True)
                (tmp_path / split / str(label) / f"{number}.jpg").write_bytes(jpeg)
    path = tmp_path if request.param == "folder" else few_digits
    return {"format": request.param, "path": str(path), "maxBadRecordFraction": 1.0, "pipeline": "tfdata"}


def source(few, data, **changed):
    return open_input_pipeline(resolve(few | {"data": data | changed}), Shard(0, 1))


@pytest.mark.parametrize("name", OF_THE_SYSTEM)
def test_pipeline_system_errno_is_system_error(few, data, monkeypatch, name):
    """No record is marked as bad, even if maxBadRecordFraction allows all of them."""
    training = source(few, data)
    monkeypatch.setattr(os, "open", failing(getattr(errno, name))(os.open))
    with pytest.raises(TrainingError) as caught:
        list(training.train(0))
    assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
    assert f"({name})" in caught.value.message
    assert data["path"] in caught.value.message
    assert len(training.bad) == 0


def test_pipeline_opens_files_again(few, data, monkeypatch):
    """It uses no file that another reader of the same dataset has open."""
    first, second = source(few, data), source(few, data)
    list(first.train(0))
    monkeypatch.setattr(os, "open", failing(errno.EIO)(os.open))
    with pytest.raises(TrainingError) as caught:
        list(second.train(0))
    assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
    del first


@pytest.mark.parametrize("name", OF_THE_FILE)
def test_pipeline_file_errno_is_bad_record(few, data, monkeypatch, name):
    """A file that cannot be opened is a fault of the data."""
    training = source(few, data)
    monkeypatch.setattr(os, "open", failing(getattr(errno, name))(os.open))
    with pytest.raises(TrainingError) as caught:
        list(training.train(0))
    assert caught.value.verdict is ExitStatus.INVALID_DATA
    assert len(training.bad) > 0


@pytest.mark.skipif(not dali.loads(), reason="DALI is not installed")
def test_dali_system_errno_is_system_error(few, data, monkeypatch):
    """DALI wraps exceptions of its source."""
    training = source(few, data, pipeline="dali")
    monkeypatch.setattr(os, "open", failing(errno.EIO)(os.open))
    with pytest.raises(TrainingError) as caught:
        list(training.train(0))
    assert caught.value.verdict is ExitStatus.SYSTEM_ERROR


def test_pipeline_memory_error_is_system_error(few, data, monkeypatch):
    """tf.data would wrap it in its own exception."""
    training = source(few, data)

    def exhausted(*_):
        raise MemoryError

    reader = tfrecord if data["format"] == "tfrecord" else image_codec
    monkeypatch.setattr(reader, "example" if reader is tfrecord else "is_jpeg", exhausted)
    with pytest.raises(TrainingError) as caught:
        list(training.train(0))
    assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
    assert len(training.bad) == 0


@pytest.mark.parametrize("alone", [True, False], ids=["each image fails", "only the batch fails"])
def test_decode_out_of_memory_is_system_error(few, data, monkeypatch, alone):
    """TensorFlow reports exhausted memory like an image that cannot be decoded."""
    training = source(few, data)

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    def unknown(*_):
        raise tf.errors.UnknownError(None, None, "something else")

    monkeypatch.setattr(TfData, "_run", exhausted if alone else unknown)
    if alone:
        monkeypatch.setattr(TfData, "_image", exhausted)
    with pytest.raises(TrainingError) as caught:
        list(training.train(0))
    assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
    assert len(training.bad) == 0


@pytest.mark.parametrize("command", ["index", "validate"])
@pytest.mark.parametrize("name", ["EMFILE", "EIO"])
def test_data_commands_system_errno_exit_12(few_digits, capsys, monkeypatch, command, name):
    """The message has the file and the errno."""
    monkeypatch.setattr(os, "open", failing(getattr(errno, name), lambda it: "train-" in str(it))(os.open))
    assert main(["data", command, "--path", str(few_digits), "--index-path", str(few_digits)]) == 12
    message = capsys.readouterr().err
    assert "train-00000-of-00002" in message
    assert f"({name})" in message


def test_prepare_system_errno_exits_12(few_digits, tmp_path, capsys, monkeypatch):
    """With --skip-bad as well, an image that the storage does not return is not bad."""
    for name in ("cat", "dog"):
        for number in range(3):
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            jpeg, _ = tfrecord.open_split(str(few_digits), "train").read(number)
            (tmp_path / "pictures" / name / f"{number}.jpg").write_bytes(jpeg)
    monkeypatch.setattr(os, "open", failing(errno.ESTALE, lambda it: str(it).endswith("1.jpg"))(os.open))
    options = ["--input", str(tmp_path / "pictures"), "--output", str(tmp_path / "out"), "--skip-bad"]
    assert main(["data", "prepare", *options]) == 12
    assert "(ESTALE)" in capsys.readouterr().err


def test_train_system_errno_reports_and_exits_12(monkeypatch, capsys):
    """Covers any function that opens files."""

    def exhausted(*_):
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE), "/data/train-0")

    monkeypatch.setattr(train_command, "_trained", exhausted)
    # They would change this process.
    monkeypatch.setattr(signals, "listen", Requests)
    monkeypatch.setattr(limits, "raise_open_files", lambda: None)
    assert main(["train"]) == 12
    output = capsys.readouterr().out
    assert '"verdict":"system_error"' in output
    assert "/data/train-0: Too many open files in system (ENFILE)" in output


def test_system_error_message_has_file_errno_and_remedy():
    """Other errors are not system errors."""
    refused = system_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/data/train-0"))
    assert refused is not None
    assert refused.message == "/data/train-0: Too many open files (EMFILE): raise the limit on open files (ulimit -n)"
    assert system_error(FileNotFoundError(errno.ENOENT, "missing")) is None
    assert system_error(ValueError()) is None
    exhausted = system_error(MemoryError(), "/data/train-0")
    assert exhausted is not None
    assert "(ENOMEM)" in exhausted.message
    with pytest.raises(FileNotFoundError), system_errors():
        raise FileNotFoundError(errno.ENOENT, "missing")


class TestOpenFiles:
    """Pool of open files."""

    @pytest.fixture
    def many(self, tmp_path):
        found = [PooledFile(tmp_path / str(number)) for number in range(40)]
        for number, file in enumerate(found):
            file.path.write_bytes(bytes([number]) * 10)
        return found

    def test_open_files_limit_closes_least_recently_used(self, many, tmp_path):
        """The pool never exceeds its limit, and each read returns the right bytes."""
        pool = OpenFiles(lambda: 4)
        for _ in range(2):
            for number, file in enumerate(many):
                assert pool.read(file, 2, 3) == bytes([number]) * 2
                assert open_under(tmp_path) == len(pool) <= 4
        pool.discard((), many)
        assert open_under(tmp_path) == 0

    @pytest.mark.parametrize(
        ("soft", "limit"), [(resource.RLIM_INFINITY, 256), (1_048_576, 256), (1024, 256), (256, 64), (3, 1)]
    )
    def test_open_files_limit_is_quarter_of_processes_limit(self, monkeypatch, soft, limit):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
        assert open_files.affordable() == limit

    def test_open_files_of_two_owners_are_separate(self, many):
        """The second owner reads a file that has replaced the one which the first owner has open."""
        pool, first = OpenFiles(lambda: 4), many[0]
        assert pool.read(first, 2, 0) == b"\0\0"
        replacement = first.path.with_name("replacement")
        replacement.write_bytes(b"new content")
        replacement.replace(first.path)
        second = PooledFile(first.path)
        assert pool.read(second, 3, 0) == b"new"
        assert pool.read(first, 2, 0) == b"\0\0"
        pool.discard((), [first])
        assert (len(pool), pool.read(second, 3, 0)) == (1, b"new")

    def test_open_files_not_closed_during_read(self, many):
        """There are more threads than open files."""
        pool, barrier = OpenFiles(lambda: 2), threading.Barrier(8)

        def read(seed):
            barrier.wait()
            chance = np.random.default_rng(seed)
            for number in chance.integers(0, len(many), 400):
                if pool.read(many[number], 3, 1) != bytes([number]) * 3:
                    return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(read, range(8)))
        assert len(pool) <= 2

    def test_open_files_read_more_shards_than_descriptors(self, few_digits, tmp_path):
        """200 shards with 100 descriptors, like ImageNet's 1,152 with the usual 1,024."""
        records = tfrecord.open_split(str(few_digits), "train")
        pictures = [records.read(number) for number in range(50)]
        for split in tfrecord.SPLITS:
            tfrecord.write(tmp_path, split, pictures * 4, 200)
        script = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100));"
            "from resnext_trainer.data.datasets import tfrecord;"
            "found = tfrecord.open_split(sys.argv[1], 'train');"
            "assert len([found.read(number) for number in range(len(found))]) == 200"
        )
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)

    def test_limits_raise_soft_open_file_limit(self):
        """The test runs in a separate process, because limits cannot be raised again."""
        script = (
            "import resource; _, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard));"
            "from resnext_trainer.runtime import limits; limits.raise_open_files();"
            "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
        )
        output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert int(output) == min(65_536, hard if hard != resource.RLIM_INFINITY else 65_536)
        limits.raise_open_files()
