"""Short trainings that start from the checkpoints of earlier ones, as users run them."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.runs import located
from resnext_trainer.cli.main import main
from resnext_trainer.contract import ExitStatus
from tests.support import checkpoints
from tests.support.checkpoints import FORMAT_1
from tests.support.runs import StopAfter, folder, newest, refused, trained

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(few_digits, tmp_path):
    """The training of the format 1 fixture: twelve steps of a model with 2,000 weights."""
    return yaml.safe_load((FORMAT_1 / "config.yaml").read_text()) | {
        "data": {"path": str(few_digits), "pipeline": "tfdata"},
        "checkpoint": {"path": str(tmp_path / "ck")},
    }


def on_mismatch(settings, mode):
    return {**settings, "checkpoint": {**settings["checkpoint"], "onMismatch": mode}}


def test_resume_format_1_writes_format_2(tiny, tmp_path):
    """A run of format 1 resumes in its own directory, from its step, with its best accuracy and log."""
    shutil.copytree(FORMAT_1 / "run", tmp_path / "ck")
    report = trained(tiny, attempt=2)
    assert (report.verdict, report.progress.step) == ("completed", 12)
    assert newest(tiny)[0].step == 12
    assert folder(tiny) == tmp_path / "ck"
    steps = [json.loads(line)["step"] for line in (tmp_path / "ck" / "log.jsonl").read_text().splitlines()]
    assert {1, 9, 12} <= set(steps)


@pytest.mark.parametrize("changed", [{"seed": 5}, {"optimizer": {"learningRate": 0.2, "warmupEpochs": 0}}])
def test_finished_run_rejects_other_recipe(tiny, changed):
    """Another recipe must not report the finished run's weights as its own result."""
    trained(tiny)
    refusal = refused(tiny | changed)
    assert (refusal.verdict, refusal.collective, refusal.rank) == (ExitStatus.INVALID_CONFIGURATION, True, None)
    assert "has a different recipe" in refusal.message


def test_finished_run_rejects_other_dataset(tiny, few_digits, tmp_path):
    """A dataset with one shard fewer counts as a different dataset."""
    trained(tiny)
    other = shutil.copytree(few_digits, tmp_path / "other")
    for name in ("train-00001-of-00002", "train-00001-of-00002.idx"):
        (other / name).unlink()
    (other / "train-00000-of-00002").rename(other / "train-00000-of-00001")
    (other / "train-00000-of-00002.idx").rename(other / "train-00000-of-00001.idx")
    assert "dataset.train: was 96 records" in refused(tiny | {"data": {**tiny["data"], "path": str(other)}}).message


def test_restart_resumes_its_own_new_run(tiny):
    """The old run is finished; the new one is stopped and then resumed."""
    trained(tiny)
    old = folder(tiny)
    again = on_mismatch(tiny | {"seed": 5}, "restart")
    assert trained(again, stop_after=3).progress.step == 4
    report = trained(again, attempt=2, telemetry=(telemetry := StopAfter()))
    assert "resuming from step 4" in telemetry.log.getvalue()
    assert (report.verdict, report.progress.step) == ("completed", 12)
    assert checkpoints.newest(old)[0].step == 12
    assert folder(tiny) != old


def test_warm_start_loads_weights_of_previous_run(tiny):
    """The tiny learning rate keeps the loaded weights; a classifier of other classes is initialized."""
    trained(tiny)
    old = store.read(folder(tiny) / "best")[1]
    again = tiny | {"optimizer": {"learningRate": 1e-30, "warmupEpochs": 0}}
    again |= {"model": {**tiny["model"], "classes": 12}}
    trained(on_mismatch(again, "warmStart"), stop_after=1, telemetry=(telemetry := StopAfter(1)))
    position, new, _ = newest(again)
    assert position.step < 3
    assert np.array_equal(new["stem/kernel"], old["stem/kernel"])
    assert "initialized randomly: classifier/kernel, classifier/bias" in telemetry.log.getvalue()


def test_warm_start_from_format_1_run(tiny, tmp_path):
    """The run of format 1 is at the top of the directory, whose current run is the new one."""
    shutil.copytree(FORMAT_1 / "run", tmp_path / "ck")
    trained(tiny, attempt=2)
    old = store.read(tmp_path / "ck" / "best").arrays
    again = tiny | {"seed": 5, "optimizer": {"learningRate": 1e-30, "warmupEpochs": 0}}
    trained(on_mismatch(again, "warmStart"), attempt=3, stop_after=1)
    assert folder(again) != tmp_path / "ck"
    assert np.array_equal(newest(again)[1]["stem/kernel"], old["stem/kernel"])


def test_continue_reports_differences(tiny):
    """The log, the checkpoints and the progress contain them."""
    trained(tiny, stop_after=2)
    again = on_mismatch(tiny | {"labelSmoothing": 0.3}, "continue")
    report = trained(again, attempt=2, telemetry=(telemetry := StopAfter()))
    sentence = "labelSmoothing: was 0.1, is 0.3"
    assert sentence in telemetry.log.getvalue()
    assert report.checkpoint.differences == (sentence,)
    assert newest(again)[2].differences == (sentence,)


def test_resume_smaller_batch_within_epoch(tiny):
    """A smaller batch is the remedy for OutOfMemory: 48 of 96 images are consumed, and the rest takes twelve steps of
    four images."""
    trained(tiny, stop_after=2)
    report = trained(tiny | {"batchSize": 4}, attempt=2)
    assert (report.verdict, report.progress.step) == ("completed", 3 + 12 + 24)


def test_resume_changed_defaults_keep_result(tiny, monkeypatch):
    """A later version with another default seed resumes to the same weights."""
    trained(tiny, stop_after=2)
    copied = shutil.copytree(tiny["checkpoint"]["path"], f"{tiny['checkpoint']['path']}-copy")
    trained(tiny, attempt=2)
    expected = newest(tiny)[1]

    from resnext_trainer.config import validation

    later = validation.resolve
    monkeypatch.setattr(
        "tests.support.runs.resolve",
        lambda written: later({"seed": 7, "labelSmoothing": 0.5, **written}).as_written_by(written),
    )
    again = tiny | {"checkpoint": {"path": str(copied)}}
    trained(again, attempt=2, telemetry=(telemetry := StopAfter()))
    assert "seed: 0, not 7" in telemetry.log.getvalue()
    found = newest(again)[1]
    assert all(np.array_equal(array, found[name]) for name, array in expected.items())


def started(settings, tmp_path, number):
    """Runs `resnext-train train` in a separate process."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "resnext_trainer", "train", "--config", str(file), "--metrics-port", "0"]
    with (tmp_path / f"{number}.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def test_two_processes_one_directory_only_one_trains(tiny, tmp_path):
    """One process trains; the other ends with a status that can be retried."""
    settings = tiny | {"epochs": 100_000, "evaluation": {"cropFraction": 1.0, "intervalEpochs": 1000}}
    settings["checkpoint"] = {**tiny["checkpoint"], "lockTimeoutSeconds": 1}
    both = [started(settings, tmp_path, number) for number in range(2)]
    try:
        deadline = time.monotonic() + 300
        while all(each.poll() is None for each in both) and time.monotonic() < deadline:
            time.sleep(0.1)
        loser, winner = sorted(both, key=lambda each: each.poll() is None)
        assert loser.wait(1) == ExitStatus.CHECKPOINT_LOCKED.value
        assert "is locked by training local-" in (tmp_path / f"{both.index(loser)}.log").read_text()
        winner.send_signal(signal.SIGTERM)
        assert winner.wait(300) == ExitStatus.STOPPED.value
    finally:
        for each in both:
            each.kill()
            each.wait()
    assert len(list((tmp_path / "ck" / "runs").iterdir())) == 1
    assert newest(settings)[0].step > 0


@pytest.mark.parametrize("settings_from", ["checkpoint.path", "run", "checkpoint"])
def test_evaluate_uses_config_of_checkpoint(tiny, tmp_path, capsys, settings_from):
    """A checkpoint includes its configuration, in the run directory and in a copy elsewhere."""
    report = trained(tiny)
    options = ["--set", f"checkpoint.path={tiny['checkpoint']['path']}"]
    if settings_from != "checkpoint.path":
        place = folder(tiny) if settings_from == "run" else folder(tiny) / "best"
        options = ["--checkpoint", str(shutil.copytree(place, tmp_path / "copy"))]
    assert main(["evaluate", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == report.progress.best_top1
    assert main(["evaluate", *options, "--set", "model.padding=symmetric"]) == 2
    assert 'model.padding: was "same", is "symmetric"' in capsys.readouterr().err


def pictures(root, names):
    for split, count in (("train", 8), ("validation", 2)):
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for picture in range(count):
                Image.new("RGB", (32, 32), (40 * number, picture, 200)).save(root / split / name / f"{picture}.png")
    return root


def predicted(capsys, tmp_path, *options):
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    assert main(["predict", str(tmp_path / "one.png"), "--top", "100", *options]) == 0
    return json.loads(capsys.readouterr().out)["classes"]


def test_predict_class_names_from_checkpoint(tiny, tmp_path, capsys):
    """ "10" sorts before "7", even if the dataset is absent; a class without a folder has no name."""
    data = pictures(tmp_path / "pictures", ["10", "7", "cat"])
    tiny |= {"data": {"path": str(data), "format": "folder", "pipeline": "tfdata"}, "batchSize": 8}
    tiny |= {"model": {**tiny["model"], "classes": 4}}
    trained(tiny)
    shutil.rmtree(data)
    options = ("--set", f"checkpoint.path={tiny['checkpoint']['path']}")
    names = {each["number"]: each.get("name") for each in predicted(capsys, tmp_path, *options)}
    assert names == {0: "10", 1: "7", 2: "cat", 3: None}
    assert main(["export", "--format", "saved-model", "--output", str(tmp_path / "out"), *options]) == 0
    assert (tmp_path / "out" / "labels.txt").read_text() == "10\n7\ncat\n\n"


def test_predict_unnamed_class_has_no_name(tiny, tmp_path, capsys):
    """Neither the class number nor a labels.txt of an earlier export is used as a name."""
    trained(tiny)
    options = ("--set", f"checkpoint.path={tiny['checkpoint']['path']}")
    assert all(each.keys() == {"number", "probability"} for each in predicted(capsys, tmp_path, *options))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.txt").write_text("old\n")
    assert main(["export", "--format", "saved-model", "--output", str(tmp_path / "out"), *options]) == 0
    assert not (tmp_path / "out" / "labels.txt").exists()


def test_report_accepts_root_run_or_log(tiny, tmp_path, capsys):
    """Accepts checkpoint.path, the directory of a run, and its log."""
    trained(tiny)
    for place in (tiny["checkpoint"]["path"], folder(tiny), folder(tiny) / "log.jsonl"):
        assert main(["report", str(place), "--output", str(tmp_path / "page.html")]) == 0
        assert "up to step 12" in capsys.readouterr().out


def test_initial_checkpoint_accepts_both_formats(tiny, tmp_path):
    """Covers a directory of runs, a run, a checkpoint, and a run of an earlier version."""
    trained(tiny)
    places = [tiny["checkpoint"]["path"], folder(tiny), folder(tiny) / "best", FORMAT_1 / "run"]
    for number, place in enumerate(places):
        new = tiny | {"initialCheckpoint": str(place), "checkpoint": {"path": str(tmp_path / f"new-{number}")}}
        trained(new, telemetry=(telemetry := StopAfter(1)))
        assert (
            f"variables initialized from {place}; no variable keeps its random initial value"
            in telemetry.log.getvalue()
        )


def test_config_written_fields_read_from_written_json(tiny, tmp_path):
    """training.json is resolved; written.json next to it has the fields that the user set."""
    from resnext_trainer.checkpoint.provenance import dumped
    from resnext_trainer.config import loading
    from resnext_trainer.config.validation import resolve

    (tmp_path / "training.json").write_text(json.dumps(dumped(resolve(tiny))))
    everything = loading.read(tmp_path / "training.json").written
    assert {"mixup", "seed", "epochs"} <= everything
    (tmp_path / "written.json").write_text(json.dumps({"epochs": 2, "optimizer": {"learningRate": 0.1}}))
    written = loading.read(tmp_path / "training.json", ["data.path=/x"]).written
    assert written == {"epochs", "optimizer.learningRate", "data.path"}
    assert located(tmp_path) == tmp_path
