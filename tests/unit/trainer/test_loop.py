"""Training loop: rollbacks, run log, TensorBoard, profiles, averaged weights, warm start and saves within an epoch."""

import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.data.pipelines.tfdata import TfData
from resnext_trainer.data.sampling import epoch_order
from resnext_trainer.model import optimizer, train_step
from resnext_trainer.model.train_step import PendingResult
from resnext_trainer.runtime import phases
from resnext_trainer.runtime.metrics import Phase
from resnext_trainer.training.evaluate import evaluate
from tests.support.clock import ShiftedClock
from tests.support.runs import StopAfter, folder, newest, trained

pytestmark = pytest.mark.slow


def log_lines(settings):
    log = folder(settings) / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def value(telemetry, name):
    """Value of a metric that has no label but the rank."""
    (found,) = re.findall(
        rf"^resnext_trainer_{name}\{{.*\}} (\S+)$", telemetry.metrics.exposition().decode(), re.MULTILINE
    )
    return float(found)


def loss_is_lost(_state, pending):
    return PendingResult(tf.constant([math.nan, *pending.wait()[1:]]))


def weight_is_lost(state, pending):
    state.model.weights["classifier/bias"].assign(np.full(10, math.inf))
    return pending


@pytest.mark.parametrize(("fault", "at"), [(loss_is_lost, 9), (weight_is_lost, 12)])
def test_trainer_nonfinite_rolls_back_to_checkpoint(few, monkeypatch, fault, at):
    """A loss or weight that is not finite rolls the training back to its last checkpoint once."""
    calls: list[None] = []
    update = train_step.apply_gradients

    def faulty(state, *arguments):
        calls.append(None)
        pending = update(state, *arguments)
        return fault(state, pending) if len(calls) == at else pending

    monkeypatch.setattr(train_step, "apply_gradients", faulty)
    telemetry = StopAfter()
    report = trained(few, telemetry=telemetry)
    assert (report.verdict, report.progress.step) == ("completed", 12)
    assert len(calls) == at + 6  # from the end of the first epoch, step 6, again
    applied = 14 if fault is loss_is_lost else 18
    assert telemetry.metrics.value("steps_total") == telemetry.heartbeat.step == applied
    assert f"step {at} is not finite" in telemetry.log.getvalue()
    assert "rolled back to step 6, reshuffling the rest of its epoch (rollback 1 of 3)" in telemetry.log.getvalue()
    position, arrays, _ = newest(few)
    assert position.rollbacks == 1
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert [line["step"] for line in log_lines(few) if line["loss"]] == list(range(1, 13))


def test_trainer_fp16_overflow_skipped_without_rollback(few, monkeypatch):
    """Overflows in float16 are skipped and counted, and cause no rollback."""
    monkeypatch.setattr(optimizer, "INITIAL_SCALE", 2.0**24)
    telemetry = StopAfter()
    report = trained(few | {"precision": {"mode": "fp16"}}, telemetry=telemetry)
    assert (report.verdict, report.progress.step) == ("completed", 12)

    counted = telemetry.metrics.value
    overflows = counted("nonfinite_steps_total", cause="overflow")
    assert overflows is not None
    assert 0 < overflows < 12
    assert counted("loss_scale") == 2.0 ** (24 - overflows)
    assert counted("nonfinite_steps_total", cause="nan") == counted("rollbacks_total") == 0


def test_epoch_order_rollback_reshuffles_remainder():
    """A rollback reshuffles only the images that were not used before it."""
    first, again = epoch_order(0, 3, 100), epoch_order(0, 3, 100, ((40, 1),))
    assert first[:40].tolist() == again[:40].tolist()
    assert first[40:].tolist() != again[40:].tolist()
    assert sorted(again) == list(range(100))
    assert epoch_order(0, 3, 100, ((40, 2),)).tolist() != again.tolist()


def test_run_log_resume_truncates_repeated_steps(few):
    """The run log has the fields of the report; a resumed attempt removes records after its checkpoint."""
    trained(few, stop_after=8)
    log = folder(few) / "log.jsonl"
    with log.open("a") as stream:  # left by a crash
        stream.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    trained(few, attempt=2)
    lines = log_lines(few)
    assert [line["step"] for line in lines if line["loss"]] == list(range(1, 13))
    assert [line["step"] for line in lines if line["top1"] is not None] == [6, 12]
    for line in lines:
        assert {
            "step",
            "epoch",
            "loss",
            "imagesPerSecond",
            "top1",
            "top5",
            "learningRate",
            "phaseFractions",
        } <= line.keys()
        assert 0 < sum(line["phaseFractions"].values()) <= 1.05


def test_phases_explain_wall_time_of_training(few, monkeypatch):
    """The phases of a whole training add up to its wall time, and slow parts are found in their own phase."""
    slow, clock = {"data_wait": 100, "checkpoint": 1000, "evaluation": 10_000, "rollback": 100_000}, ShiftedClock()
    monkeypatch.setattr(phases, "time", clock)
    train, restore = TfData.train, CheckpointManager.restore

    def slow_batches(*arguments):
        for batch in train(*arguments):
            clock.passes(slow["data_wait"])
            yield batch

    def slowly(phase, function):
        def call(*arguments, **named):
            clock.passes(slow[phase])
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(TfData, "train", slow_batches)
    monkeypatch.setattr(CheckpointManager, "save", slowly("checkpoint", CheckpointManager.save))
    monkeypatch.setattr("resnext_trainer.training.validator.evaluate", slowly("evaluation", evaluate))
    calls: list[None] = []
    update = train_step.apply_gradients

    def faulty(state, *arguments):
        calls.append(None)
        pending = update(state, *arguments)
        if len(calls) != 9:
            return pending
        monkeypatch.setattr(CheckpointManager, "restore", slowly("rollback", restore))
        return loss_is_lost(state, pending)

    monkeypatch.setattr(train_step, "apply_gradients", faulty)
    started, telemetry = clock.monotonic(), StopAfter()
    trained(few, telemetry=telemetry)
    seconds = telemetry.parts.phases.totals()
    assert sum(seconds.values()) == pytest.approx(clock.monotonic() - started, abs=0.5)
    times_of: dict[Phase, int] = {"data_wait": 16, "checkpoint": 2, "evaluation": 2, "rollback": 1}
    for phase, times in times_of.items():
        assert times * slow[phase] < seconds[phase] < times * slow[phase] + 60, phase
    assert min(seconds[phase] for phase in ("compute", "optimizer", "compile", "other")) > 0
    for line in log_lines(few):
        assert sum(line["phaseFractions"].values()) == pytest.approx(1, abs=0.01)


def test_unwritable_run_log_does_not_end_training(few):
    """Each failed write is counted, and the log of the rank has the cause."""
    trained(few, stop_after=2)
    log = folder(few) / "log.jsonl"
    log.unlink()
    log.mkdir()
    telemetry = StopAfter()
    assert trained(few, attempt=2, telemetry=telemetry).verdict == "completed"
    assert value(telemetry, "log_write_failures_total") >= 10
    assert "cannot write the log of the run: [Errno 21] Is a directory" in telemetry.log.getvalue()


def test_tensorboard_events_have_loss_and_top1(few):
    """TensorFlow's event reader finds the loss of each step and top1 of each evaluation."""
    trained(few)
    events = folder(few) / "tensorboard"
    (file,) = events.glob("events.out.tfevents.*")
    drawn = {
        (value.tag, event.step)
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert {("loss", step) for step in range(1, 13)} | {("top1", 6), ("top1", 12)} <= drawn


def test_profile_request_writes_xplane(few):
    """A profile request writes a profile of profileSteps steps for TensorBoard."""
    telemetry = StopAfter(4)
    telemetry.requests.profile.set()
    trained(few | {"profileSteps": 2}, telemetry=telemetry)
    (profile,) = (folder(few) / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    assert profile.stat().st_size > 1000
    assert "wrote a profile of 2 steps to" in telemetry.log.getvalue()
    assert not telemetry.requests.profile.is_set()


def test_ema_accuracy_reported_and_plain_logged(few):
    """The reported accuracy is that of the averaged weights; the log also contains that of the raw weights."""
    telemetry = StopAfter()
    report = trained(few | {"emaDecay": 0.9}, telemetry=telemetry)
    (last,) = (line for line in log_lines(few) if line["step"] == 12 and line["top1"] is not None)
    assert last["top1"] == report.progress.top1
    assert last["rawTop1"] is not None
    assert "with averaged weights" in telemetry.log.getvalue()


def test_deterministic_flag_enables_op_determinism(few):
    """`deterministic` enables TensorFlow's op determinism."""
    from tensorflow.python.framework import config

    try:
        trained(few | {"deterministic": True}, stop_after=1)
        assert config.is_op_determinism_enabled()
    finally:
        config.disable_op_determinism()


def test_warm_start_other_classes_skips_classifier(few, tmp_path):
    """A warm start with other classes loads all weights except the classifier; a resume loads none."""
    trained(few | {"emaDecay": 0.5}, stop_after=3)
    _, source, _ = newest(few)
    again = few | {
        "model": {**few["model"], "classes": 12},
        "initialCheckpoint": few["checkpoint"]["path"],
        "checkpoint": {"path": str(tmp_path / "tuned")},
        # A rate this small does not change the weights.
        "optimizer": {"learningRate": 1e-30},
    }
    telemetry = StopAfter(1)
    trained(again, telemetry=telemetry)
    assert "; initialized randomly: classifier/kernel, classifier/bias" in telemetry.log.getvalue()
    _, tuned, _ = newest(again)
    assert np.array_equal(tuned["stem/kernel"], source["average/stem/kernel"])
    assert tuned["classifier/kernel"].shape[-1] == 12
    resumed = StopAfter()
    trained(again, attempt=2, telemetry=resumed)
    assert "come from" not in resumed.log.getvalue()  # a resumed training ignores initialCheckpoint


def kept_steps(settings):
    return sorted(int(path.name.split("-")[1]) for path in folder(settings).glob("step-*"))


def saving_every(settings, place, minutes, **checkpoints):
    return settings | {"checkpoint": {"path": str(place), "keep": 100, "intervalMinutes": minutes, **checkpoints}}


@pytest.mark.parametrize("changed", [{}, {"emaDecay": 0.9, "gradientAccumulation": 2, "batchSize": 8}])
def test_save_within_epoch_does_not_change_result(few, tmp_path, changed):
    """The time of a save depends on the clock, but the weights must not. The metrics have the expected interval."""
    few |= changed
    often, never = saving_every(few, tmp_path / "often", 1e-9), saving_every(few, tmp_path / "never", 0)
    for settings in (often, never):
        telemetry = StopAfter()
        speed = trained(settings, telemetry=telemetry).progress.images_per_second
        assert speed
        expected = 6e-8 if settings is often else 96 / speed
        assert value(telemetry, "checkpoint_interval_seconds") == pytest.approx(expected)
    assert kept_steps(often) == list(range(1, 13))
    assert kept_steps(never) == [6, 12]
    ours, theirs = newest(often), newest(never)
    assert ours[0] == theirs[0]
    for name, array in theirs[1].items():
        assert np.array_equal(ours[1][name], array), name


def test_crash_within_epoch_resumes_from_last_save(few, tmp_path, monkeypatch):
    """At most intervalMinutes of work are repeated, with the result of an uninterrupted training."""
    whole, parts = saving_every(few, tmp_path / "whole", 0), saving_every(few, tmp_path / "parts", 1e-9)
    trained(whole)
    calls: list[None] = []
    update = train_step.apply_gradients

    def crashing(*arguments):
        calls.append(None)
        if len(calls) == 5:
            raise RuntimeError("power cut")
        return update(*arguments)

    monkeypatch.setattr(train_step, "apply_gradients", crashing)
    with pytest.raises(RuntimeError):
        trained(parts)
    assert newest(parts)[0].step == 4
    report = trained(parts, attempt=2)
    assert (report.verdict, report.progress.resumed_step) == ("completed", 4)
    assert len(calls) == 5 + 8
    for name, array in newest(whole)[1].items():
        assert np.array_equal(newest(parts)[1][name], array), name


def test_save_due_at_last_step_made_at_epoch_end(few, tmp_path):
    """Covers epochs of a single step with a large intervalEpochs."""
    few = saving_every(few | {"epochs": 3, "batchSize": 96}, tmp_path / "kept", 1e-9, intervalEpochs=1000)
    trained(few)
    assert kept_steps(few) == [1, 2, 3]
