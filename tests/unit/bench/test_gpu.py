"""The unattended GPU benchmark: order, resumption and deadlines, without a GPU or a network."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import PRECISIONS, BenchmarkConfig, Measurement, Record, command, measure_all, measurements, ratios
from benchmarks.interleave import CommandFailed, facts, interleave

CONFIG = BenchmarkConfig(
    network="resnext101-32x4d",
    settings=("model.architecture=resnext101-32x4d",),
    device="gpu",
    timing=("--steps", "50", "--warm-up", "20"),
    batch={"fp16": 256, "bf16": 256, "tf32": 128, "fp32": 64},
    size=224,
    data=Path("/data"),
    torch="python3",
    gpus=8,
)


class Machine:
    """Fake commands: each reports the same speed, and the given ones fail."""

    def __init__(self, failing=""):
        self.commands, self._failing = [], failing

    def __call__(self, command, timeout):
        words = " ".join(str(word) for word in command)
        self.commands.append(words)
        assert timeout > 0
        if self._failing and self._failing in words:
            raise CommandFailed("out of memory")
        return {"imagesPerSecond": 100.0 * (8 if "-np 8" in words else 1)}


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "gpu.jsonl")


def soon():
    return time.monotonic() + 60


def test_every_precision_pipeline_and_xla_is_measured():
    """Each combination is measured at the preset batch size of its precision."""
    planned = set(measurements(CONFIG))
    for precision in PRECISIONS:
        for compiled in (True, False):
            for pipeline in ("synthetic", "dali", "tfdata", "native"):
                assert Measurement("ours", precision, compiled, CONFIG.batch[precision], pipeline) in planned


def test_every_transfer_from_dali_is_measured():
    """With the fastest step; the default of GPUs is in the measurements of all pipelines."""
    words = [" ".join(str(word) for word in command(measurement, CONFIG)) for measurement in measurements(CONFIG)]
    for transfer in ("plugin-cpu", "plugin-gpu"):
        (found,) = [each for each in words if f"RESNEXT_DALI_TRANSFER={transfer} " in each]
        assert "precision.mode=fp16" in found
        assert "xla=true" in found
        assert "data.pipeline=dali" in found


def test_no_measurement_repeats():
    """Each measurement is listed once."""
    planned = list(measurements(CONFIG))
    assert len(planned) == len(set(planned))


def test_compared_measurements_come_first():
    """ResNeXt and timm in fp16 are measured before anything else."""
    first, second, *_ = measurements(CONFIG)
    assert (first, second) == (Measurement("ours", "fp16", True, 256), Measurement("theirs", "fp16", True, 256))


def test_input_limits_are_measured_before_other_precisions():
    """Each pipeline alone and in training: a machine may be available for a few minutes only."""
    planned = list(measurements(CONFIG))
    others = next(number for number, each in enumerate(planned) if each.precision != "fp16")
    for what in ("input", "training"):
        for pipeline in ("dali", "tfdata", "native"):
            assert planned.index(Measurement("ours", "fp16", True, 256, pipeline, what=what)) < others


def test_without_pytorch_only_own_trainer_is_measured():
    """The baseline is skipped."""
    assert {measurement.who for measurement in measurements(replace(CONFIG, torch=None))} == {"ours"}


def test_gpu_counts_do_not_exceed_machine():
    """On two GPUs only 1 and 2 are measured."""
    assert {measurement.gpus for measurement in measurements(replace(CONFIG, gpus=2))} == {1, 2}


def test_failure_affects_only_its_measurement(record):
    """All other measurements run."""
    machine = Machine(failing="precision.mode=tf32")
    measure_all(CONFIG, record, soon(), machine)
    assert len(machine.commands) == len(list(measurements(CONFIG)))
    failed = {measurement for measurement, found in record.found.items() if "error" in found}
    assert failed
    assert {(measurement.who, measurement.precision) for measurement in failed} == {("ours", "tf32")}


def test_interrupted_run_resumes(record, tmp_path):
    """Failed and truncated records are measured again, finished ones are not."""
    measure_all(CONFIG, record, soon(), Machine(failing="precision.mode=bf16"))
    with (tmp_path / "gpu.jsonl").open("a") as stream:
        stream.write('{"cell": {"who": "ou')
    again = Machine()
    measure_all(CONFIG, Record(tmp_path / "gpu.jsonl"), soon(), again)
    assert again.commands
    assert all("precision.mode=bf16" in words for words in again.commands)
    third = Machine()
    measure_all(CONFIG, Record(tmp_path / "gpu.jsonl"), soon(), third)
    assert third.commands == []


def test_nothing_starts_after_deadline(record):
    """No command runs."""
    machine = Machine()
    measure_all(CONFIG, record, time.monotonic(), machine)
    assert machine.commands == []


def test_ratios_use_measured_values(record):
    """Without measurements there are no ratios."""
    measure_all(CONFIG, record, soon(), Machine())
    found = {text: value for text, value, _ in ratios(record.found)}
    assert found["ours fp16 XLA batch 256 synthetic x 1: relative to timm"] == 1
    assert found["ours fp16 XLA batch 256 synthetic x 8: relative to linear scaling"] == 1
    assert found["ours fp16 XLA batch 256 synthetic x 2: relative to linear scaling"] == 0.5
    assert found["ours fp16 XLA batch 256 dali alone x 1: relative to the step with synthetic data"] == 1
    assert ratios({}) == []


def test_record_of_earlier_version_is_read(tmp_path):
    """Its cells have no field `what`: they measured training."""
    cell = {"who": "ours", "precision": "fp16", "compiled": True, "batch": 256, "pipeline": "synthetic", "gpus": 1}
    (tmp_path / "gpu.jsonl").write_text(json.dumps({"cell": cell, "facts": {"imagesPerSecond": 2415.0}}) + "\n")
    assert Record(tmp_path / "gpu.jsonl").has(next(measurements(CONFIG)))


def test_input_alone_is_measured_without_training():
    """The command of the pipeline alone reads the data."""
    words = [str(word) for word in command(Measurement("ours", "fp16", True, 256, "dali", what="input"), CONFIG)]
    assert words[1:3] == ["benchmark", "input"]
    assert "data.pipeline=dali" in words


def test_several_gpus_run_under_mpirun():
    """mpirun starts one rank per GPU."""
    words = [str(word) for word in command(Measurement("ours", "fp16", True, 256, gpus=4), CONFIG)]
    assert words[:3] == ["mpirun", "-np", "4"]
    assert "data.path=/data" not in words


def test_failed_command_quotes_last_output():
    """The error quotes the last output; a timeout and a missing program are reported as well."""
    with pytest.raises(CommandFailed, match="failed with exit code 3:\nno such network"):
        facts(["sh", "-c", "echo no such network >&2; exit 3"])
    with pytest.raises(CommandFailed, match="failed with exit code 0:\nnothing to say"):
        facts(["echo", "nothing to say"])
    with pytest.raises(CommandFailed, match="timed out after 0 s"):
        facts(["sleep", "5"], timeout=0.1)
    with pytest.raises(CommandFailed, match="No such file"):
        facts(["/nowhere/python"])


def test_interleave_alternates_commands(tmp_path):
    """Commands take turns."""
    commands = {
        name: ["sh", "-c", f"echo {name} >> {tmp_path}/log; echo '{{\"imagesPerSecond\": 1}}'"] for name in "ab"
    }
    assert {name: len(found) for name, found in interleave(2, commands).items()} == {"a": 2, "b": 2}
    assert (tmp_path / "log").read_text().split() == ["a", "b", "a", "b"]
