"""Selection of a checkpoint, and of its raw or averaged weights."""

import json

import numpy as np
import pytest

from resnext_trainer.checkpoint import runs, select, store
from resnext_trainer.checkpoint.runs import Run
from resnext_trainer.checkpoint.store import TrainingPosition

ARRAYS = {"kernel": np.zeros(3, np.float32)}


def saved(folder, step):
    store.save(folder, TrainingPosition(step=step), ARRAYS, 1, 10)


def damage(checkpoint):
    (checkpoint / "state.npz").write_bytes(b"")


def step_of(found):
    return found and found.position.step


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at steps 1 and 2; its best one is of step 1."""
    run = runs.create(tmp_path, "uid", 1)
    runs.make_current(tmp_path, run)
    saved(run.folder, 1)
    saved(run.folder, 2)
    store.save_best(run.folder, TrainingPosition(step=1, top1=0.5), ARRAYS)
    return run


@pytest.mark.parametrize(("prefer", "step"), [(None, 1), (select.BEST, 1), (select.NEWEST, 2)])
def test_select_best_unless_newest_preferred(tmp_path, run, prefer, step):
    """Accepts the checkpoint directory, the run directory, and the run."""
    for source in (tmp_path, run.folder, run):
        assert step_of(select.select(source, prefer)) == step


def test_select_single_checkpoint_read_as_named(run):
    """The directory of a checkpoint selects that checkpoint, even if its run has others."""
    assert step_of(select.select(run.folder / "step-00000002-attempt-0001", select.BEST)) == 2


def test_select_without_best_uses_newest(tmp_path):
    """A run that was not evaluated yet has no best checkpoint; an empty directory has none at all."""
    assert select.select(tmp_path) is None
    saved(tmp_path, 7)
    assert step_of(select.select(tmp_path)) == 7


def test_select_newest_damaged_uses_previous(run):
    """A training resumes from the newest complete checkpoint."""
    damage(run.folder / "step-00000002-attempt-0001")
    assert step_of(select.select(run, select.NEWEST)) == 1


def test_select_best_damaged_rejected_or_skipped(run):
    """A damaged best checkpoint is an error, except for a warm start."""
    damage(run.folder / "best")
    with pytest.raises(select.DamagedCheckpointError, match="checksum"):
        select.select(run)
    assert step_of(select.select(run, skip_damaged_best=True)) == 2


def test_select_run_of_format_1_ignores_current_run(tmp_path):
    """A run of format 1 is at the top of the directory, in which another run may be the current one."""
    saved(tmp_path, 7)
    new = runs.create(tmp_path, "uid", 1)
    runs.make_current(tmp_path, new)
    assert json.loads((tmp_path / "current-run").read_text())["run"] == new.id
    assert select.select(tmp_path) is None
    assert step_of(select.select(Run(tmp_path))) == 7


def test_weights_averaged_or_raw_never_mixed():
    """A checkpoint with averages yields averages only; without any it yields the raw weights."""
    one, two = np.array(1, np.float32), np.array(2, np.float32)
    assert select.weights({"a": one, "b": one, "velocity/a": two}, ["a", "b"]) == {"a": 1, "b": 1}
    assert select.weights({"a": one, "b": one, "average/a": two}, ["a", "b"]) == {"a": 2}
