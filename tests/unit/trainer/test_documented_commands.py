"""The documented calls of `resnext-train` run, with paths of the test and a network that is trained in seconds."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from resnext_trainer.checkpoint.runs import located
from resnext_trainer.cli.main import main
from resnext_trainer.data.datasets import tfrecord
from tests.support import mpi
from tests.support.code_blocks import arguments, calls

pytestmark = pytest.mark.slow

ORDER = ["data", "inspect", "train", "evaluate", "predict", "export", "report", "benchmark"]
"""Each command needs the output of those before it."""


def test_documented_trainer_commands_run(few, few_digits, pictures, tmp_path, monkeypatch):
    """Only the size of the network, the number of steps and the batch size are added to the documented options."""
    monkeypatch.chdir(tmp_path)
    pictures.rename("by-split")
    Path("by-split/train").rename("pictures")
    small = {name: value for name, value in few.items() if name not in ("data", "checkpoint")}
    settings = small | {"data": {"path": str(tmp_path / "data")}}
    Path("training.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    Path("cat.jpg").write_bytes(tfrecord.open_split(str(few_digits), "train").read(0)[0])
    smaller = [word for name, value in small.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    more = {"train": smaller, "benchmark": [*smaller, "--steps", "2", "--warm-up", "1"]}

    documented = sorted(arguments("resnext-train"), key=lambda words: ORDER.index(words[0]))
    assert {words[0] for words in documented} == set(ORDER)
    for words in documented:
        if words[0] == "train":  # Each training starts from scratch.
            shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        own = [here(word, tmp_path) for word in words]
        small_sweep = ["--largest-batch", "16"] if "--sweep" in words else []
        # Options on the command line override `--config`, but not the options after them.
        assert main([own[0], *more.get(own[0], []), *small_sweep, *own[1:]]) == 0, words


def here(word: str, folder: Path) -> str:
    """A documented word with the paths of this test."""
    word = re.sub(r"(?<![\w.])/(data|checkpoints)\b", f"{folder}/\\1", word)
    if "/runs/" in word:
        return str(located(folder / "checkpoints"))
    return word


def test_documented_mpirun_options_are_tested():
    """The tests with several ranks use the documented options, and others for machines with fewer cores."""
    documented = [words[: words.index("resnext-train")] for words in calls("resnext-train") if words[0] == "mpirun"]
    assert documented
    for words in documented:
        assert set(words) <= set(mpi.mpirun(2))
