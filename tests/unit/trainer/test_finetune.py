"""Warm start: checkpoints that initialCheckpoint accepts, and the weights that are loaded."""

from pathlib import Path

import numpy as np
import pytest

from resnext_trainer.checkpoint import store, warm_start
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError

STEM, HEAD, BIAS = np.ones((3, 3), np.float32), np.ones((4, 10), np.float32), np.ones(10, np.float32)
ARRAYS = {"stem/kernel": STEM, "classifier/kernel": HEAD, "classifier/bias": BIAS, "velocity/stem/kernel": STEM}


def read(path):
    return warm_start.read_weights(Path(path), str(path))


def shapes(classes):
    return {"stem/kernel": (3, 3), "classifier/kernel": (4, classes), "classifier/bias": (classes,)}


def refused(act, *arguments):
    with pytest.raises(TrainingError, match=r"spec\.training\.initialCheckpoint: ") as caught:
        act(*arguments)
    assert caught.value.verdict is ExitStatus.INVALID_CONFIGURATION
    return caught.value.message


def test_match_weights_other_classes_skip_head():
    """With the same classes all weights are loaded; with other classes all except the classifier."""
    assert set(warm_start.match_weights(shapes(10), ARRAYS, "a")) == set(shapes(10))
    assert set(warm_start.match_weights(shapes(11), ARRAYS, "a")) == {"stem/kernel"}


def test_match_weights_prefers_ema():
    """Averaged weights are loaded if the checkpoint has them."""
    averaged = {f"average/{name}": 2 * array for name, array in ARRAYS.items() if not name.startswith("velocity")}
    taken = warm_start.match_weights(shapes(10), {**ARRAYS, **averaged}, "a")
    assert taken["stem/kernel"][0, 0] == 2


@pytest.mark.parametrize("stem", [{}, {"stem/kernel": np.ones((7, 7), np.float32)}], ids=["missing", "another shape"])
def test_match_weights_other_model_rejected(stem):
    """A checkpoint with missing or differently shaped weights is rejected."""
    arrays = {"classifier/kernel": HEAD, "classifier/bias": BIAS, **stem}
    assert "a different model: stem/kernel" in refused(warm_start.match_weights, shapes(10), arrays, "a")


def test_read_weights_directory_uses_best_else_newest(tmp_path):
    """A directory yields its best checkpoint, or the newest if there is no best one."""
    newest = store.save(tmp_path, TrainingPosition(step=7), {"a": np.array(7, np.float32)}, 1, 3)
    assert read(tmp_path)["a"] == 7
    store.save_best(tmp_path, TrainingPosition(step=5), {"a": np.array(5, np.float32)})
    assert read(tmp_path)["a"] == 5
    assert read(newest.path)["a"] == 7


@pytest.mark.parametrize("damage", ["missing", "empty", "a file", "truncated", "nonsense"])
def test_read_weights_invalid_checkpoint_rejected(tmp_path, damage):
    """The message names the path that is not a valid checkpoint."""
    path = tmp_path / "initial"
    match damage:
        case "empty":
            path.mkdir()
        case "a file":
            path.write_text("weights")
        case "truncated" | "nonsense":
            saved = store.save(path, TrainingPosition(step=1), ARRAYS, 1, 3)
            part = path / saved.path / ("state.npz" if damage == "truncated" else "state.json")
            part.write_bytes(part.read_bytes()[:-9])
            path = path / saved.path
    assert str(path) in refused(read, path)
