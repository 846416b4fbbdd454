"""Command line of resnext-train: help, configuration files, --set, exit codes and the data commands."""

import contextlib
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_trainer.cli.main import main
from resnext_trainer.config import loading
from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import InvalidConfig
from tests.support.documents import CASES
from tests.support.reports import report_in

RESOURCE = """
apiVersion: resnext.dev/v1alpha2
kind: ResNeXtTraining
metadata: {name: flowers}
spec:
  workers: {replicas: 2}
  training: {epochs: 7, data: {path: /flowers}}
"""


def resnext_train(*arguments):
    command = [sys.executable, "-m", "resnext_trainer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_lists_commands_without_heavy_imports():
    """--help lists every command and imports neither TensorFlow nor any other large package."""
    code = "import sys; from resnext_trainer.__main__ import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^    (\w+)  ", text, re.MULTILINE)) == {
        "train",
        "inspect",
        "evaluate",
        "predict",
        "export",
        "benchmark",
        "report",
        "data",
        "worker",
        "launch",
        "rank",
    }
    assert not {"tensorflow", "numpy", "pydantic", "rich", "yaml", "prometheus_client"} & set(text.split())


def test_help_of_each_command_without_heavy_imports():
    """The help of a command imports nothing that only the command itself needs."""
    code = """
import contextlib, io, sys
from resnext_trainer.__main__ import main
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
print(*sys.modules)
"""
    commands = ["train", "inspect", "evaluate", "predict", "export", "benchmark", "report", "worker", "launch", "rank"]
    commands += ["data prepare", "data digits", "data index", "data validate"]
    loaded = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, check=True).stdout
    assert "resnext_trainer.cli.pod" in loaded.split()
    assert not {"tensorflow", "numpy", "pydantic", "rich", "yaml", "prometheus_client"} & set(loaded.split())


def test_help_imports_few_modules():
    """The number of imported modules, unlike a duration, is the same on a busy machine."""
    code = "import sys; before = set(sys.modules); from resnext_trainer.__main__ import main\n"
    code += "try: main(['--help'])\nfinally: print(len(set(sys.modules) - before), file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert int(loaded) < 120


@pytest.mark.parametrize(
    "command",
    [
        *("train", "inspect", "evaluate", "predict", "export", "benchmark", "report", "worker", "launch", "rank"),
        *("data prepare", "data digits", "data index", "data validate"),
    ],
)
def test_help_of_each_command_prints_usage(command, capsys):
    """Each command and subcommand has a help page."""
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    assert f"usage: resnext-train {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [RESOURCE, "epochs: 7\ndata: {path: /flowers}", json.dumps({"epochs": 7, "data": {"path": "/flowers"}})],
    ids=["resource", "yaml", "json"],
)
def test_config_file_accepts_resource_yaml_and_json(tmp_path, text):
    """--config accepts a ResNeXtTraining resource, YAML and JSON; --set overrides them."""
    (tmp_path / "config").write_text(text)
    config = loading.read(tmp_path / "config", ["data.path=/other", "targetTop1=0.9", "xla=false"])
    assert (config.epochs, config.data.path, config.target_top1, config.xla) == (7, "/other", 0.9, False)


OUTSIDE = ("snake case in the workers", "number as a label", "fraction of a CPU as a number")
"""Errors in fields that only the operator reads."""


@pytest.mark.parametrize("name", [name for name in CASES if name not in OUTSIDE])
def test_config_values_match_api_server(tmp_path, name):
    """A file with one training is accepted by both the trainer and the API server, or by neither."""
    data, specs = CASES[name]
    (tmp_path / "config").write_bytes(data)
    if specs and len(specs) == 1:
        assert loading.written(tmp_path / "config") == specs[0]["training"]
        assert loading.read(tmp_path / "config").epochs == specs[0]["training"]["epochs"]
    else:
        with pytest.raises(InvalidConfig):
            loading.read(tmp_path / "config")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("optimizer.weightDecay=1e-4", {"optimizer": {"weightDecay": 0.0001}}),
        ("epochs=90.0", {"epochs": 90}),
        ("epochs=0x10", {"epochs": 16}),
        ("xla=off", {"xla": False}),
        ("data.path=2026-01-01", {"data": {"path": "2026-01-01"}}),
        ("data.path=1:30", {"data": {"path": "1:30"}}),
        ("data={path: /x, indexPath: null}", {"data": {"path": "/x"}}),
        ("mixup=null", {}),
        ("mixup=", {}),
    ],
)
def test_set_value_parsed_like_file(assignment, value):
    """--set parses a value like a file does; null unsets the field."""
    assert loading.written(None, ["mixup=0.1", "mixup=null", assignment]) == value


FIELDS = st.sampled_from([str(field.alias) for field in Training.model_fields.values()]) | st.text(max_size=3)


@given(
    st.lists(st.builds("{}{}{}={}".format, FIELDS, st.sampled_from(["", "."]), FIELDS, st.text(max_size=8)), max_size=3)
)
def test_set_arbitrary_assignment_applied_or_rejected(assignments):
    """No assignment raises an exception other than InvalidConfig."""
    with contextlib.suppress(InvalidConfig):
        loading.read(None, assignments)


@pytest.mark.parametrize(
    ("text", "assignments", "words"),
    [
        ("- 1", [], "no settings found"),
        ("{", [], "neither YAML nor JSON"),
        ("", [], "no settings found"),
        ("kind: Pod", [], "no settings found"),
        ("text", [], "no settings found"),
        (f"{RESOURCE}---{RESOURCE}", [], "found 2 trainings (flowers, flowers)"),
        (RESOURCE.replace("v1alpha2", "v1"), [], "must be resnext.dev/v1alpha2"),
        ("batch_size: 7", [], 'unknown field "spec.training.batch_size"'),
        ("epoch: null", [], 'unknown field "spec.training.epoch"'),
        ("", ["epochs=1:30"], "no settings found"),
        ("{}", ["epochs=1:30"], 'spec.training.epochs: Invalid value: "1:30"'),
        ("{}", ["mixup=.inf"], 'spec.training.mixup: Invalid value: ".inf"'),
        ("{}", ["batch_size=7"], 'unknown field "spec.training.batch_size"'),
        ("epochs: 7", ["epochs"], "field=value"),
        ("epochs: 7", ["epochs.first=1"], "epochs is 7 and has no fields"),
        ("epoch: 7", [], 'unknown field "spec.training.epoch"'),
    ],
)
def test_config_unreadable_rejected_with_remedy(tmp_path, text, assignments, words):
    """Unreadable files and assignments are rejected; the message says how to correct them."""
    (tmp_path / "config").write_text(text)
    with pytest.raises(InvalidConfig, match=re.escape(words)):
        loading.read(tmp_path / "config", assignments)


def test_train_invalid_config_reports_and_exits_2():
    """An invalid configuration ends with a termination report and exit code 2."""
    ended = resnext_train("train", "--set", "epochs=none")
    report = report_in(ended.stdout)
    assert ended.returncode == 2
    assert report["verdict"] == "invalid_configuration"
    assert "spec.training.epochs" in report["message"]


def test_data_digits_written_once_then_validated(tmp_path):
    """`data digits` writes the dataset once; `data index` and `data validate` read it."""
    assert "written" in resnext_train("data", "digits", "--output", tmp_path).stdout
    assert "already exists" in resnext_train("data", "digits", "--output", tmp_path).stdout
    assert resnext_train("data", "index", "--path", tmp_path).stdout.count("records") == 6
    assert "validation: 2 shards, 359 records" in resnext_train("data", "validate", "--path", tmp_path).stdout


def test_validate_truncated_shard_exits_3(tmp_path):
    """`data validate` names a truncated shard and exits with code 3."""
    resnext_train("data", "digits", "--output", tmp_path)
    shard = tmp_path / "train-00001-of-00004"
    shard.write_bytes(shard.read_bytes()[:-5])
    ended = resnext_train("data", "validate", "--path", tmp_path)
    assert ended.returncode == 3
    assert shard.name in ended.stderr


def test_inspect_published_recipe_prints_facts():
    """`inspect --json` prints parameters, steps and learning rate of the published recipe."""
    recipe = ("--set", "preset=resnext101-32x4d-250ep", "--images", "1281167", "--world-size", "8", "--json")
    facts = json.loads(resnext_train("inspect", *recipe).stdout)
    assert (
        facts["weights"] == 44_177_704
    )  # torchvision's ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
    assert facts["stepsPerEpoch"] == 625
    assert facts["learningRate"]["0"] == 0
    assert facts["config"]["mixup"] == 0.2
