"""The sweep over precisions and batch sizes: failures of a measurement, time limits, and what it computes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.training import sweep_cell
from resnext_trainer.training.batch_search import Outcome
from resnext_trainer.training.sweep import Plan, input_idle, show, summarize, sweep
from resnext_trainer.training.sweep_cell import Cell, Measured, explain, measure

CELL = Cell("fp16", True, 256)
PLAN = Plan(
    modes=("fp16+xla", "tf32"),
    first={"fp16+xla": 256, "tf32": 128},
    limit=4096,
    step=8,
    real=True,
    seconds=600,
    cell_seconds=60,
)


def facts(images_per_second=100.0, waiting=0.0):
    return {
        "imagesPerSecond": images_per_second,
        "latencySeconds": {"p50": 0.1},
        "modelFlopUtilization": None,
        "peakMemoryGiB": 20.0,
        "dataWaitShare": waiting,
    }


@pytest.mark.parametrize(
    ("status", "printed", "errors", "outcome", "reason"),
    [
        (0, 'progress {"imagesPerSecond": 1.0}', "", Outcome.FITS, ""),
        (0, "nothing", "", Outcome.FAILED, "exit status 0: nothing"),
        (12, "", "out of memory with batchSize 512: lower batchSize", Outcome.TOO_LARGE, "out of memory"),
        (1, "", "InternalError: RESOURCE_EXHAUSTED: Failed to allocate 2 bytes", Outcome.TOO_LARGE, "out of memory"),
        (-6, "", "terminate called after throwing an instance of 'std::bad_alloc'", Outcome.TOO_LARGE, "out of memory"),
        (-9, "", "", Outcome.TOO_LARGE, "out of memory"),
        (-11, "", "one\ntwo\n\n", Outcome.FAILED, "signal SIGSEGV: two"),
        (1, "", "", Outcome.FAILED, "exit status 1: no output"),
        (2, "", "tf32 requires an NVIDIA GPU", Outcome.STOP, "tf32 requires an NVIDIA GPU"),
        (3, "", "/data does not exist", Outcome.STOP, "/data does not exist"),
        (7, "", "no GPU is usable", Outcome.STOP, "no GPU is usable"),
    ],
)
def test_explain_separates_memory_from_other_failures(status, printed, errors, outcome, reason):
    """Exit statuses, signals, and the words of each library."""
    result = explain(CELL, status, printed, errors)
    assert (result.outcome, result.reason) == (outcome, reason)
    assert bool(result.facts) == (outcome is Outcome.FITS)


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Replaces the benchmark by a shell script, which gets its arguments."""

    def replace(script):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))

    return replace


def test_measure_passes_settings_of_cell(child):
    """The settings of the cell come last, so that they override those of the user."""
    child('echo "{\\"words\\": \\"$*\\"}"')
    words = measure(CELL, ["--set", "batchSize=1"], 10, None).facts["words"]
    assert words.endswith("--set batchSize=1 --set batchSize=256 --set precision.mode=fp16 --set xla=true --synthetic")
    assert "--synthetic" not in measure(Cell("fp32", False, 8, synthetic=False), [], 10, None).facts["words"]


@pytest.mark.parametrize(("number", "outcome"), [("KILL", Outcome.TOO_LARGE), ("SEGV", Outcome.FAILED)])
def test_measure_of_killed_process_reports_signal(child, number, outcome):
    """The kernel kills a process that exceeds the memory limit of its pod with SIGKILL."""
    child(f"kill -{number} $$")
    assert measure(CELL, [], 10, None).outcome is outcome


def test_measure_timeout_kills_all_processes(child, tmp_path):
    """A process that the benchmark started does not survive it."""
    child(f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    start = time.monotonic()
    result = measure(CELL, [], 0.5, None)
    assert (result.outcome, result.reason) == (Outcome.TOO_LARGE, "no result within 0 s")
    assert time.monotonic() - start < 10
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(stat.strip()) and not stat.startswith("Z")


def test_measure_interrupted_kills_process(child, monkeypatch, tmp_path):
    """After Ctrl-C, no benchmark keeps running."""
    child(f"echo $$ > {tmp_path}/pid; exec sleep 60")

    def interrupted(_process, timeout):  # noqa: ARG001
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(CELL, [], 10, None)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)


def test_measure_limits_memory_of_process(child):
    """An allocation beyond the limit fails in the benchmark, instead of ending other processes of the machine."""
    real = sys.executable
    child(f'exec {real} -c "bytearray(2**30)"')
    assert measure(CELL, [], 30, 2**28).outcome is Outcome.FAILED
    child(f"""exec {real} -c 'import sys
try: bytearray(2**30)
except MemoryError: sys.exit("out of memory")'""")
    assert measure(CELL, [], 30, 2**28).reason == "out of memory"


def test_available_memory_is_read_in_bytes(tmp_path):
    """None if the kernel does not say."""
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:   3 kB\n")
    assert sweep_cell.available_memory(tmp_path / "meminfo") == 3072
    assert sweep_cell.available_memory(tmp_path / "nothing") is None


class Machine:
    """A device with memory for 600 images, whose input pipeline delivers three quarters of its throughput."""

    def __init__(self, failing=None):
        self.cells, self._failing = [], failing or {}

    def __call__(self, cell, seconds):
        assert 0 < seconds <= PLAN.cell_seconds
        self.cells.append(cell)
        if cell.mode in self._failing:
            return Measured(cell, self._failing[cell.mode], {}, "broken")
        if cell.batch > 600:
            return Measured(cell, Outcome.TOO_LARGE, {}, "out of memory")
        return Measured(cell, Outcome.FITS, facts() if cell.synthetic else facts(75.0, 0.3))


def test_sweep_repeats_largest_batch_with_dataset():
    """One line per result as soon as it is measured, and the share of the time that the device waits for input."""
    lines: list[str] = []
    machine = Machine()
    found = sweep(PLAN, machine, lines.append)
    real = [result for result in found if not result.cell.synthetic]
    assert [(result.cell.mode, result.cell.batch) for result in real] == [("fp16+xla", 576), ("tf32", 576)]
    assert [input_idle(result, found) for result in real] == [0.25, 0.25]
    summary = summarize(found)
    assert summary["largestBatch"] == {"fp16+xla": 576, "tf32": 576}
    assert [cell["inputIdleShare"] for cell in summary["cells"] if not cell["synthetic"]] == [0.25, 0.25]
    assert len(lines) == len(found) == len(machine.cells)
    assert "fp16+xla, batch 256, synthetic images: 100.0 images/s" in lines
    assert "fp16+xla, batch 1024, synthetic images: out of memory" in lines


def test_sweep_without_dataset_measures_random_images_only():
    """No measurement is repeated."""
    found = sweep(Plan(**vars(PLAN) | {"real": False}), Machine(), lambda _line: None)
    assert all(result.cell.synthetic for result in found)
    assert len({result.cell for result in found}) == len(found)


def fits(images_per_second, *, mode="fp16", batch=256, synthetic=True):
    cell = Cell(mode, True, batch, synthetic)
    return Measured(cell, Outcome.FITS, facts(images_per_second, waiting=0.6))


@pytest.mark.parametrize(("with_dataset", "idle"), [(0.0, 1.0), (75.0, 0.25), (100.0, 0.0), (101.0, 0.0)])
def test_input_idle_compares_same_mode_and_batch(with_dataset, idle):
    """Results of other modes and batch sizes do not count, and a share is never negative."""
    others = [
        fits(10.0, mode="tf32"),
        fits(20.0, batch=128),
        fits(30.0, batch=512),
        Measured(Cell("fp16", False, 256), Outcome.FITS, facts(40.0)),
    ]
    real = fits(with_dataset, synthetic=False)
    for found in ([*others, fits(100.0), real], [real, fits(100.0), *others]):
        assert input_idle(real, found) == idle


def test_input_idle_needs_both_measurements():
    """It is unknown for random images, and if the measurement with random images or with the dataset is missing."""
    bare, real = fits(100.0), fits(75.0, synthetic=False)
    failed, failed_with_dataset = (
        Measured(result.cell, Outcome.FAILED, {}, "exit status 1: no output") for result in (bare, real)
    )
    assert input_idle(bare, [bare, real]) is None
    assert input_idle(real, [real]) is None
    assert input_idle(real, [failed, real]) is None
    assert input_idle(failed_with_dataset, [bare, failed_with_dataset]) is None


@pytest.mark.parametrize(
    ("options", "real"), [([], True), (["--synthetic"], False), (["--set", "data.format=synthetic"], False)]
)
def test_sweep_option_synthetic_omits_dataset(monkeypatch, capsys, options, real):
    """The largest batch size is measured again only if there is a dataset."""
    plans: list[Plan] = []

    def planned(plan, *_rest):
        plans.append(plan)
        return []

    monkeypatch.setattr("resnext_trainer.training.sweep.sweep", planned)
    assert main(["benchmark", "training", "--sweep", "--json", "--set", "device=cpu", *options]) == 1
    assert [plan.real for plan in plans] == [real]
    assert '"cells": []' in capsys.readouterr().out


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.STOP, Outcome.TOO_LARGE])
def test_sweep_failed_mode_affects_only_itself(outcome):
    """The next mode is measured."""
    found = sweep(PLAN, Machine({"fp16+xla": outcome}), lambda _line: None)
    assert summarize(found)["largestBatch"] == {"tf32": 576}
    assert {result.cell.mode for result in found} == {"fp16+xla", "tf32"}
    assert input_idle(found[0], found) is None


def test_sweep_ends_after_its_time():
    """The results so far are returned; the interrupted measurement does not count as one that does not fit."""

    def slow(cell, seconds):
        if len(lines) == 1:
            time.sleep(seconds)
            return Measured(cell, Outcome.TOO_LARGE, {}, f"no result within {seconds:.0f} s")
        return Measured(cell, Outcome.FITS, facts())

    lines: list[str] = []
    found = sweep(Plan(**vars(PLAN) | {"seconds": 0.2}), slow, lines.append)
    assert [result.outcome for result in found] == [Outcome.FITS, Outcome.STOP]
    assert summarize(found)["largestBatch"] == {"fp16+xla": 256}
    assert lines[-1].startswith("the time limit of the sweep (--minutes 0.00333333) was reached: increase it")


def test_sweep_table_has_a_row_per_result(capsys):
    """In the order of modes and batch sizes; failures show their reason."""
    show(sweep(PLAN, Machine(), lambda _line: None))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:6] == ["fp16+xla", "256", "synthetic", "100.0", "100.0", "ms"]
    assert ["fp16+xla", "1024", "synthetic", "out", "of", "memory"] in rows
    dataset = next(row for row in rows if row[:3] == ["tf32", "576", "dataset"])
    assert dataset[-2:] == ["30%", "25%"]
    assert "largest batch size that fits with tf32: 576" in " ".join(rows[-1])


@pytest.mark.parametrize(
    ("options", "under_mpirun"), [(["inference"], False), (["input"], False), (["training"], True)]
)
def test_sweep_unless_training_of_one_rank_rejected(capsys, monkeypatch, options, under_mpirun):
    """A sweep of inference or input, or under mpirun, is rejected."""
    monkeypatch.setattr("resnext_trainer.cli.mpi.leave", lambda _code: None)
    monkeypatch.setattr("resnext_trainer.cli.mpi.under_mpirun", lambda: under_mpirun)
    assert main(["benchmark", *options, "--sweep"]) == 2
    assert "--sweep measures the training of one rank" in capsys.readouterr().err
