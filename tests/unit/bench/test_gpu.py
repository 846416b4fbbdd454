"""The order and the perseverance of the benchmark that runs unattended, without a GPU and without a network."""

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
    """Plays the commands: each is as fast as the one before, but those that are to fail."""

    def __init__(self, failing=""):
        self.asked, self._failing = [], failing

    def __call__(self, command, timeout):
        words = " ".join(str(word) for word in command)
        self.asked.append(words)
        assert timeout > 0
        if self._failing and self._failing in words:
            raise CommandFailed("out of memory")
        return {"imagesPerSecond": 100.0 * (8 if "-np 8" in words else 1)}


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "gpu.jsonl")


def soon():
    return time.monotonic() + 60


def test_every_precision_is_measured_with_and_without_xla_on_every_pipeline_at_its_preset():
    asked = set(measurements(CONFIG))
    for precision in PRECISIONS:
        for compiled in (True, False):
            for pipeline in ("synthetic", "dali", "tfdata"):
                assert Measurement("ours", precision, compiled, CONFIG.batch[precision], pipeline) in asked


def test_nothing_is_measured_twice():
    asked = list(measurements(CONFIG))
    assert len(asked) == len(set(asked))


def test_what_is_compared_first_is_measured_first():
    first, second, *_ = measurements(CONFIG)
    assert (first, second) == (Measurement("ours", "fp16", True, 256), Measurement("theirs", "fp16", True, 256))


def test_without_pytorch_only_ours_is_measured():
    assert {measurement.who for measurement in measurements(replace(CONFIG, torch=None))} == {"ours"}


def test_more_gpus_than_there_are_is_not_asked_for():
    assert {measurement.gpus for measurement in measurements(replace(CONFIG, gpus=2))} == {1, 2}


def test_a_failure_ends_no_more_than_its_own_cell(record):
    machine = Machine(failing="precision.mode=tf32")
    measure_all(CONFIG, record, soon(), machine)
    assert len(machine.asked) == len(list(measurements(CONFIG)))
    failed = {measurement for measurement, found in record.found.items() if "error" in found}
    assert failed
    assert {(measurement.who, measurement.precision) for measurement in failed} == {("ours", "tf32")}


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(record, tmp_path):
    measure_all(CONFIG, record, soon(), Machine(failing="precision.mode=bf16"))
    with (tmp_path / "gpu.jsonl").open("a") as stream:
        stream.write('{"cell": {"who": "ou')
    again = Machine()
    measure_all(CONFIG, Record(tmp_path / "gpu.jsonl"), soon(), again)
    assert again.asked
    assert all("precision.mode=bf16" in words for words in again.asked)
    third = Machine()
    measure_all(CONFIG, Record(tmp_path / "gpu.jsonl"), soon(), third)
    assert third.asked == []


def test_nothing_begins_after_the_deadline(record):
    machine = Machine()
    measure_all(CONFIG, record, time.monotonic(), machine)
    assert machine.asked == []


def test_the_ratios_are_of_what_was_measured(record):
    measure_all(CONFIG, record, soon(), Machine())
    found = {text: value for text, value, _ in ratios(record.found)}
    assert found["ours fp16 XLA batch 256 synthetic x 1 over timm's"] == 1
    assert found["ours fp16 XLA batch 256 synthetic x 8: over linear"] == 1
    assert found["ours fp16 XLA batch 256 synthetic x 2: over linear"] == 0.5
    assert ratios({}) == []


def test_several_gpus_are_ranks_under_mpirun():
    words = [str(word) for word in command(Measurement("ours", "fp16", True, 256, gpus=4), CONFIG)]
    assert words[:3] == ["mpirun", "-np", "4"]
    assert "data.path=/data" not in words


def test_a_command_that_fails_says_its_last_words():
    with pytest.raises(CommandFailed, match="ended with 3:\nno such network"):
        facts(["sh", "-c", "echo no such network >&2; exit 3"])
    with pytest.raises(CommandFailed, match="ended with 0:\nnothing to say"):
        facts(["echo", "nothing to say"])
    with pytest.raises(CommandFailed, match="longer than 0 s"):
        facts(["sleep", "5"], timeout=0.1)
    with pytest.raises(CommandFailed, match="No such file"):
        facts(["/nowhere/python"])


def test_commands_take_turns(tmp_path):
    said = {name: ["sh", "-c", f"echo {name} >> {tmp_path}/log; echo '{{\"imagesPerSecond\": 1}}'"] for name in "ab"}
    assert {name: len(found) for name, found in interleave(2, said).items()} == {"a": 2, "b": 2}
    assert (tmp_path / "log").read_text().split() == ["a", "b", "a", "b"]
