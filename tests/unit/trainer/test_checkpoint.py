"""Checkpoint store and checkpoint manager: saving, restoring, retention and recovery from damage."""

import resource
from contextlib import contextmanager
from io import StringIO
from threading import Event

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.checkpoint import store
from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.provenance import Provenance
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data.fingerprint import Fingerprint
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import SingleProcess
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.telemetry import compose
from tests.support import checkpoints
from tests.support.checkpoints import newest

ARRAYS = {"stem/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "loss-scale": np.array(8, np.float32)}


def save(folder, step, attempt=1, keep=3):
    return store.save(folder, TrainingPosition(step=step, epoch=1, best_top1=0.5), ARRAYS, attempt, keep)


def test_store_newest_returns_saved_checkpoint(tmp_path):
    """The position, the arrays and the checkpoint itself are restored as saved."""
    saved = save(tmp_path, 10)
    position, arrays, found = newest(tmp_path)
    assert position == TrainingPosition(step=10, epoch=1, best_top1=0.5)
    assert found == saved
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }


def test_store_empty_or_missing_directory_has_no_checkpoint(tmp_path):
    """A directory that is empty or missing has no checkpoint."""
    assert store.newest(tmp_path) is None
    assert store.newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("part", ["state.npz", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed"])
def test_store_damaged_checkpoint_falls_back_to_previous(tmp_path, part, damage, caplog):
    """If the newest checkpoint is damaged, the previous one is restored and the damage is logged."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    file = tmp_path / "step-00000020-attempt-0001" / part
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:-5])
        case "emptied":
            file.write_bytes(b"")
        case "removed":
            file.unlink()
    assert newest(tmp_path)[0].step == 10
    assert "step-00000020" in caplog.text


def test_store_only_damaged_checkpoints_rejected(tmp_path):
    """A directory whose checkpoints are all damaged is rejected instead of trained from scratch."""
    (tmp_path / save(tmp_path, 10).path / "state.npz").write_bytes(b"")
    with pytest.raises(TrainingError, match="none is valid") as caught:
        store.newest(tmp_path)
    assert caught.value.verdict is ExitStatus.NO_VALID_CHECKPOINT


def test_store_partial_write_ignored_and_removed(tmp_path):
    """A partially written checkpoint is ignored, and the next save removes it."""
    (tmp_path / ".step-00000030-attempt-0001.writing").mkdir()
    assert store.newest(tmp_path) is None
    save(tmp_path, 40)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000040-attempt-0001"]


def test_store_retention_keeps_newest_and_best(tmp_path):
    """Only the newest `keep` checkpoints are retained, and the best one next to them."""
    store.save_best(tmp_path, TrainingPosition(step=1), ARRAYS)
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    store.save_best(tmp_path, TrainingPosition(step=3), ARRAYS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best", "step-00000003-attempt-0001", "step-00000004-attempt-0001"]
    assert store.read(tmp_path / "best")[0].step == 3


def test_store_older_attempt_does_not_replace_newer(tmp_path):
    """A checkpoint of the same step by an older attempt does not replace that of a newer one."""
    save(tmp_path, 5, attempt=2)
    save(tmp_path, 5, attempt=1)
    assert newest(tmp_path)[2].path.endswith("step-00000005-attempt-0002")


def test_position_every_field_restored(tmp_path):
    """Every field of the training position is restored as saved."""
    position = TrainingPosition(step=9, images=64, top1=0.5, best_top1=0.75, rollbacks=2, redealt=((32, 1), (64, 2)))
    store.save(tmp_path, position, ARRAYS, 1, 3)
    assert newest(tmp_path)[0] == position


class Weights(TrainState):
    """The part of a train state that is saved."""

    def __init__(self, size=4):
        self._weight = tf.Variable(np.zeros(size, np.float32))

    def variables(self):
        return {"weight": self._weight}


class Here(Resumption):
    """A run at the top of the folder, without a lock."""

    provenance = Provenance(config={}, written=(), class_names=(), dataset=Fingerprint(format="synthetic", splits={}))

    def __init__(self, folder):
        self._folder = folder

    @property
    def folder(self):
        return self._folder

    def check(self): ...

    def check_known(self): ...

    def warm_start_folder(self):
        return None


def manager(folder, state=None, metrics=None):
    parts = compose(metrics or Metrics(), Console(out=StringIO()), Heartbeat(0))
    return CheckpointManager(
        resolve({}), 1, SingleProcess(), state or Weights(), parts.metrics, parts.console, parts.phases, Here(folder)
    )


def keep(kept, **position):
    kept.save(TrainingPosition(**position))
    kept.wait()


def save_best(kept, **position):
    kept.save(TrainingPosition(**position), newest=False, best=True)
    kept.wait()


def best(folder):
    return store.read(folder / "best")[0].top1


def test_manager_best_survives_restart(tmp_path):
    """After a crash the best accuracy is known, and only a better checkpoint replaces it."""
    first = manager(tmp_path)
    first.restore()
    keep(first, step=1, top1=0.5)
    save_best(first, step=2, top1=0.9)  # a crash follows: only the best checkpoint itself contains its accuracy

    second = manager(tmp_path)
    assert second.restore().best_top1 == 0.9
    save_best(second, step=3, top1=0.8)
    assert best(tmp_path) == 0.9
    save_best(second, step=4, top1=0.95)
    assert best(tmp_path) == 0.95


def test_manager_save_in_background_is_snapshot(tmp_path, monkeypatch):
    """Steps taken while a checkpoint is written do not change it."""
    written, whole = Event(), store.save
    monkeypatch.setattr(store, "save", lambda *what: whole(*what) if written.wait(10) else None)
    step = Weights()
    kept = manager(tmp_path, step)
    kept.save(TrainingPosition(step=1))
    step.variables()["weight"].assign_add([1, 1, 1, 1])
    assert kept.saved is None
    written.set()
    assert kept.is_saved(TrainingPosition(step=1))
    assert not newest(tmp_path)[1]["weight"].any()


def test_store_best_survives_interrupted_replacement(tmp_path):
    """If a process ends while it replaces the best checkpoint, the previous best is restored."""
    save_best(manager(tmp_path), step=1, top1=0.9)
    (tmp_path / "best").rename(tmp_path / ".best.old")
    assert checkpoints.best(tmp_path).top1 == 0.9
    assert best(tmp_path) == 0.9


def test_manager_damaged_best_replaced_by_next(tmp_path, caplog):
    """A damaged best checkpoint is logged, and the next evaluation replaces it."""
    store.save_best(tmp_path, TrainingPosition(step=1, top1=0.9), ARRAYS)
    (tmp_path / "best" / "state.npz").write_bytes(b"")
    again = manager(tmp_path)
    again.restore()
    assert "best is incomplete" in caplog.text
    save_best(again, step=2, top1=0.1)
    assert best(tmp_path) == 0.1


@contextmanager
def files_of_at_most(size):
    """File on a full disk: the write that exceeds the space fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_manager_full_disk_keeps_last_checkpoint(tmp_path):
    """A failed save keeps the last good checkpoints, is counted, and the next save succeeds."""
    metrics = Metrics()
    full = manager(tmp_path, Weights(100_000), metrics)
    keep(full, step=1)
    save_best(full, step=1, top1=0.5)
    with files_of_at_most(100_000):
        keep(full, step=2)
        save_best(full, step=2, top1=0.6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step-00000001-attempt-0001"]
    assert newest(tmp_path)[0].step == 1
    assert best(tmp_path) == 0.5
    assert not full.is_saved(TrainingPosition(step=2))
    assert metrics.value("checkpoint_failures_total") == 2
    keep(full, step=3)
    save_best(full, step=3, top1=0.6)
    assert (newest(tmp_path)[0].step, best(tmp_path)) == (3, 0.6)
