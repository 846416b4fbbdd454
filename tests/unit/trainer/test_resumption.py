"""Selection of the run that an attempt resumes or starts in a directory with earlier runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config import presets
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import fingerprint
from resnext_trainer.errors import TrainingError
from tests.support import checkpoints
from tests.support.checkpoints import FORMAT_1

ARRAYS = {"stem/kernel": np.ones(3, np.float32)}

DATA = fingerprint.of("synthetic", {}, 64)
OTHER_DATA = fingerprint.of("synthetic", {}, 65)

MISMATCHES = [
    pytest.param({"optimizer": {"learningRate": 0.2}}, DATA, "optimizer.learningRate: was 0.1, is 0.2", id="rate"),
    pytest.param({"seed": 4}, DATA, "seed: was 0, is 4", id="seed"),
    pytest.param(
        {"preset": "resnext101-32x4d-250ep"}, DATA, 'preset: was unset, is "resnext101-32x4d-250ep"', id="preset"
    ),
    pytest.param({"emaDecay": 0.9}, DATA, "emaDecay: was 0.0, is 0.9", id="EMA"),
    pytest.param({}, OTHER_DATA, "dataset.train: was 64 records in 1 part, is 65 records in 1 part", id="dataset"),
]


class Attempt:
    """The checkpoint handling of one attempt."""

    def __init__(self, root, changed=(), *, dataset=DATA, names=("cat", None), attempt=1, **checkpoint_settings):
        self.notes: list[str] = []
        written = {"optimizer": {"learningRate": 0.1}, **dict(changed)}
        written["checkpoint"] = {"path": str(root), "lockTimeoutSeconds": 1, **checkpoint_settings}
        self.run = Resumption(resolve(written), attempt, self.notes.append)
        try:
            self.opened = self.run.select()
            self.config = self.run.settle(dataset, names)
        except BaseException:
            self.run.close()
            raise
        self.attempt, self.folder = attempt, self.run.folder

    @property
    def newest(self):
        found = store.newest(self.folder)
        return found and found[0].step

    def trained(self, step, **position):
        """Saves a checkpoint and ends."""
        at = TrainingPosition(step=step, **position)
        run = self.run
        store.save(self.folder, at, ARRAYS, self.attempt, 3, run.provenance, run.check)
        if at.top1 is not None:
            store.save_best(self.folder, at, ARRAYS, run.provenance, run.check)
        run.close()
        return self


def refused(*arguments, **named):
    with pytest.raises(TrainingError) as caught:
        Attempt(*arguments, **named)
    return caught.value


@pytest.fixture
def root(tmp_path):
    """A directory with a run at step 1000."""
    Attempt(tmp_path / "ck").trained(1000, epoch=2, top1=0.75)
    return tmp_path / "ck"


def test_resume_same_recipe_without_notes(root):
    """The log mentions no difference."""
    again = Attempt(root, attempt=2)
    assert (again.newest, again.notes) == (1000, [])


@pytest.mark.parametrize(("changed", "dataset", "sentence"), MISMATCHES)
def test_resume_other_recipe_or_dataset_rejected(root, changed, dataset, sentence):
    """The message has the difference, the run's step and the possible settings."""
    before = sorted(root.rglob("*"))
    refusal = refused(root, changed, dataset=dataset)
    assert refusal.verdict is ExitStatus.INVALID_CONFIGURATION
    for words in (sentence, "step 1000", "checkpoint.onMismatch to continue, warmStart", "checkpoints.subPath"):
        assert words in refusal.message
    assert sorted(root.rglob("*")) == before


def test_resume_rejection_lists_all_differences(root):
    """Covers differences of the recipe and of the dataset."""
    message = refused(root, {"seed": 4, "mixup": 0.3}, dataset=OTHER_DATA).message
    assert all(words in message for words in ("seed: was", "mixup: was", "dataset.train: was"))


@pytest.mark.parametrize(("changed", "dataset", "sentence"), MISMATCHES)
def test_continue_resumes_and_records_differences(root, changed, dataset, sentence):
    """The differences are logged once and recorded in each checkpoint and in the report."""
    resumed = Attempt(root, changed, dataset=dataset, onMismatch="continue")
    assert resumed.newest == 1000
    assert sentence in "\n".join(resumed.notes)
    resumed.trained(1010, epoch=2)
    _, _, saved = checkpoints.newest(resumed.folder)
    assert sentence in saved.differences
    third = Attempt(root, changed, dataset=dataset, attempt=2)
    assert (third.newest, third.notes) == (1010, [])
    assert sentence in third.run.provenance.differences


@pytest.mark.parametrize(("changed", "dataset", "sentence"), MISMATCHES)
@pytest.mark.parametrize("mode", ["restart", "warmStart"])
def test_restart_starts_run_that_attempts_resume(root, changed, dataset, sentence, mode):
    """The old run stays unchanged and is no longer the current one."""
    old = checkpoints.current(root)
    kept = {path: path.stat().st_mtime_ns for path in old.folder.rglob("*") if path.is_file()}
    new = Attempt(root, changed, dataset=dataset, onMismatch=mode)
    assert new.newest is None
    assert new.folder != old.folder
    assert new.run.warm_start_folder() == (old.folder if mode == "warmStart" else None)
    assert sentence in "\n".join(new.notes)
    new.trained(20)
    second = Attempt(root, changed, dataset=dataset, onMismatch=mode, attempt=2)
    assert (second.newest, second.folder) == (20, new.folder)
    assert store.best(second.folder) is None
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_restart_ended_before_save_is_resumed(root):
    """A warm start then loads its weights from the old run again."""
    old = checkpoints.current(root)
    first = Attempt(root, {"seed": 4}, onMismatch="warmStart")
    first.run.close()
    second = Attempt(root, {"seed": 4}, onMismatch="warmStart", attempt=2)
    assert (second.folder, second.run.warm_start_folder()) == (first.folder, old.folder)


def test_resume_other_architecture_is_mismatch(tmp_path):
    """The run's model.custom is invalid for the new architecture, which is a mismatch like any other."""
    custom = {"model": {"architecture": "custom", "classes": 10, "custom": {"blocks": [1]}}}
    Attempt(tmp_path, custom).trained(10)
    other = {"model": {"architecture": "resnet50"}}
    assert 'model.architecture: was "custom", is "resnet50"' in refused(tmp_path, other).message
    assert Attempt(tmp_path, other, onMismatch="restart").newest is None


def test_resume_run_settings_may_change(root):
    """The new values apply, and the log lists the changes."""
    resumed = Attempt(root, {"batchSize": 4, "gradientAccumulation": 2, "xla": False, "epochs": 200})
    assert resumed.newest == 1000
    assert (resumed.config.batch_size, resumed.config.epochs, resumed.config.xla) == (4, 200, False)
    assert "batchSize: was 256, is 4" in "\n".join(resumed.notes)


@pytest.mark.parametrize(("epochs", "images", "trained"), [(1, 0, "2 epochs"), (2, 7, "2 epochs and 7 images")])
@pytest.mark.parametrize("mode", ["refuse", "continue", "restart"])
def test_resume_fewer_epochs_than_trained_rejected(tmp_path, epochs, images, trained, mode):
    """The message has both numbers; no value of onMismatch allows this."""
    Attempt(tmp_path).trained(1000, epoch=2, images=images)
    refusal = refused(tmp_path, {"epochs": epochs}, onMismatch=mode)
    assert refusal.verdict is ExitStatus.INVALID_CONFIGURATION
    assert f"spec.training.epochs: {epochs}, but" in refusal.message
    assert trained in refusal.message


def test_resume_as_many_epochs_as_trained_accepted(root):
    """No step remains, which is not an error."""
    assert Attempt(root, {"epochs": 2}).newest == 1000


def test_resume_changed_defaults_keep_run_values(root, monkeypatch):
    """A later version has another default, and another default of a dependent field."""
    monkeypatch.setattr(presets, "BATCH_SIZE", {"fp16": 512})
    stored = json.loads((checkpoints.current(root).folder / "step-00001000-attempt-0001" / "state.json").read_text())
    stored["provenance"]["config"]["labelSmoothing"] = 0.3  # the default at that time
    (checkpoints.current(root).folder / "step-00001000-attempt-0001" / "state.json").write_text(json.dumps(stored))
    resumed = Attempt(root, attempt=2)
    assert (resumed.config.batch_size, resumed.config.label_smoothing) == (256, 0.3)
    assert "labelSmoothing: 0.3, not 0.1" in "\n".join(resumed.notes)
    resumed.trained(1010, epoch=2)
    recorded = store.provenance(Path(checkpoints.newest(resumed.folder)[2].path))
    assert recorded is not None
    assert recorded.config["labelSmoothing"] == 0.3


def test_resume_removed_field_keeps_run_value(tmp_path):
    """Only fields that the user sets are compared; the log lists the values that the run keeps."""
    Attempt(tmp_path, {"seed": 3}).trained(10)
    resumed = Attempt(tmp_path, attempt=2)
    assert resumed.config.seed == 3
    assert "the run keeps the values of fields that are no longer set" in "\n".join(resumed.notes)
    assert "seed: 3, not 0" in "\n".join(resumed.notes)


def test_resume_dataset_without_names_keeps_class_names(root):
    """The dataset may be absent, or without its labels.txt, when a run resumes."""
    resumed = Attempt(root, names=(None, None))
    assert resumed.run.provenance.class_names == ("cat", None)


def test_resume_format_1_in_place_writes_format_2(tmp_path, caplog):
    """One warning is logged; from the next checkpoint on the recipe is compared."""
    root = shutil.copytree(FORMAT_1 / "run", tmp_path / "ck")
    first = Attempt(root, attempt=2)
    assert (first.newest, first.folder) == (9, root)
    assert caplog.text.count("has checkpoint format 1") == 1
    first.trained(10, epoch=1)
    assert json.loads((root / "step-00000010-attempt-0002" / "state.json").read_text())["format"] == 2
    caplog.clear()
    again = Attempt(root, attempt=3)
    assert (again.newest, caplog.text) == (10, "")
    again.run.close()
    assert "seed: was 0, is 4" in refused(root, {"seed": 4}).message


def test_restart_keeps_format_1_run_in_place(tmp_path):
    """Later attempts find the new run, not the old one in the root directory."""
    root = shutil.copytree(FORMAT_1 / "run", tmp_path / "ck")
    Attempt(root, attempt=2).trained(10, epoch=1)
    new = Attempt(root, {"seed": 4}, onMismatch="warmStart")
    assert (new.newest, new.run.warm_start_folder()) == (None, root)
    new.trained(20)
    assert Attempt(root, {"seed": 4}, attempt=2).newest == 20
    assert checkpoints.newest(root)[0].step == 10


def pointer(root):
    return root / "current-run"


def state(root):
    return checkpoints.current(root).folder / "step-00001000-attempt-0001" / "state.json"


@pytest.mark.parametrize("file", [pointer, state])
def test_resume_newer_format_rejected(root, file):
    """It is not treated as corrupt: no older checkpoint is used, and the message names the version."""
    Attempt(root, attempt=2).trained(990)
    path = file(root)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3, "version": "9.1"}))
    refusal = refused(root, attempt=3)
    assert refusal.verdict is ExitStatus.INVALID_CONFIGURATION
    assert "has checkpoint format 3, written by version 9.1" in refusal.message


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 2, "run": "../x"}', '{"format": "2"}'])
def test_resume_damaged_pointer_rejected(root, content):
    """Training from scratch would look like a lost run; the message lists the runs."""
    run = checkpoints.current(root)
    pointer(root).write_text(content)
    refusal = refused(root)
    assert refusal.verdict is ExitStatus.NO_VALID_CHECKPOINT
    assert run.id in refusal.message


def test_resume_missing_pointer_rejected_if_runs_exist(root):
    """The message has the content that the removed file needs."""
    run = checkpoints.current(root)
    pointer(root).unlink()
    assert json.dumps({"format": 2, "run": run.id}) in refused(root).message
    pointer(root).write_text(json.dumps({"format": 2, "run": run.id}))
    assert Attempt(root).newest == 1000


def test_resume_directory_without_checkpoint_starts_run(tmp_path):
    """An attempt that ended before it selected its run has left a directory without checkpoints."""
    (tmp_path / "runs" / "20260101-000000-abcd" / "tensorboard").mkdir(parents=True)
    assert Attempt(tmp_path).newest is None


def test_resume_removed_run_starts_from_scratch(root):
    """The user has deleted the directory of the current run."""
    shutil.rmtree(checkpoints.current(root).folder)
    again = Attempt(root, {"seed": 4})
    assert again.newest is None
    again.trained(5)
    assert Attempt(root, {"seed": 4}, attempt=2).newest == 5


@pytest.mark.parametrize("name", ["runs", "runs/linked"])
def test_resume_symlink_rejected(tmp_path, name):
    """A link may point outside the claim."""
    root, elsewhere = tmp_path / "ck", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(elsewhere)
    pointer(root).write_text('{"format": 2, "run": "linked"}')
    assert "is a symbolic link" in refused(root).message
    assert list(elsewhere.iterdir()) == []


def test_resume_run_locked_until_attempt_ends(root, monkeypatch):
    """Covers onMismatch: restart, which would start another current run."""
    monkeypatch.setenv("RESNEXT_TRAINING_UID", "training-a")
    first = Attempt(root)
    monkeypatch.setenv("RESNEXT_TRAINING_UID", "training-b")
    for changed in ({}, {"seed": 4}):
        refusal = refused(root, changed, onMismatch="restart")
        assert refusal.verdict is ExitStatus.CHECKPOINT_LOCKED
        assert "training training-a, attempt 1" in refusal.message
    first.run.close()
    assert Attempt(root).newest == 1000


def test_resume_higher_attempt_blocks_stale_writes(root, monkeypatch):
    """The stale attempt saves neither a checkpoint nor the best one; existing checkpoints stay complete."""
    monkeypatch.setenv("RESNEXT_TRAINING_UID", "training-a")
    stale = Attempt(root, attempt=1)
    Attempt(root, attempt=2)
    folder, run, position = stale.folder, stale.run, TrainingPosition(step=1005)
    for write in (
        lambda: store.save_best(folder, position, ARRAYS, run.provenance, run.check),
        lambda: store.save(folder, position, ARRAYS, 1, 3, run.provenance, run.check),
    ):
        with pytest.raises(TrainingError, match="attempt 2") as caught:
            write()
        assert caught.value.verdict is ExitStatus.CHECKPOINT_LOCKED
    assert stale.newest == 1000
    assert checkpoints.best(stale.folder).top1 == 0.75
    assert not list(stale.folder.glob(".*.writing"))
