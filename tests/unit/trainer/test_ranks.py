"""Several ranks under mpirun and Horovod: equal results, joint errors and saves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from resnext_trainer.checkpoint.runs import located
from resnext_trainer.contract import REPORT_PREFIX
from tests.support import mpi
from tests.support.checkpoints import newest
from tests.support.reports import report_in
from tests.support.runs import trained

pytestmark = pytest.mark.skipif(not mpi.AVAILABLE, reason="several ranks need Horovod and mpirun")


def start(ranks, *command, code=0):
    """Runs a command on this number of ranks and returns its standard output."""
    done = subprocess.run(
        [*mpi.mpirun(ranks), sys.executable, *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


RANKS = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def one_rank(digits_folder, tmp_path_factory):
    """State after the step of a single rank."""
    to = tmp_path_factory.mktemp("one") / "step"
    start(1, RANKS, "joined", digits_folder, to)
    return np.load(f"{to}.npz")


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_update_matches_single_rank(digits_folder, tmp_path, one_rank, ranks):
    """Two and four ranks compute the update of one rank with the same global batch."""
    start(ranks, RANKS, "joined", digits_folder, tmp_path / "step")
    many = np.load(tmp_path / "step.npz")
    assert {f"stage1/block1/grouped/{kind}" for kind in ("kernel", "scale")} < set(many.files)
    for name in one_rank.files:
        # Velocities are gradients of up to 100; float32 sums in another order differ.
        rtol = 1e-5 if name.startswith("velocity/") else 0
        np.testing.assert_allclose(many[name], one_rank[name], rtol=rtol, atol=1e-6, err_msg=name)


def test_ranks_overflow_on_one_skips_step_on_all(digits_folder, tmp_path):
    """An overflow on one rank skips the step and halves the loss scale on all ranks."""
    start(2, RANKS, "overflow", digits_folder, tmp_path / "seen")
    right, wrong = (dict(np.load(tmp_path / f"seen-{rank}.npz")) for rank in (0, 1))
    assert right["own"].all()  # with its own gradients it would have applied every step
    assert not wrong["own"][:-1].any()
    skipped = len(wrong["own"]) - 1
    assert skipped > 2
    assert right["made"].tolist() == wrong["made"].tolist() == [False] * skipped + [True]
    scales = [2.0 ** (19 - step) for step in range(skipped)]
    assert right["scales"].tolist() == wrong["scales"].tolist() == [*scales, scales[-1]]
    ours = [name.removeprefix("before ") for name in right if name.startswith("before ")]
    for name in ours:
        for part in ("before", "between", "after"):
            if part == "after" and name.endswith(("/mean", "/variance")):
                continue  # statistics differ between ranks until they are averaged
            np.testing.assert_array_equal(right[f"{part} {name}"], wrong[f"{part} {name}"], err_msg=name)
        if name != "loss-scale":
            np.testing.assert_array_equal(right[f"between {name}"], right[f"before {name}"], err_msg=name)
    assert not np.array_equal(right["after classifier/bias"], right["before classifier/bias"])


@pytest.mark.slow
def test_two_ranks_train_digits_to_97_percent(settings, tmp_path):
    """A complete training from a configuration file on two ranks reaches its accuracy."""
    settings |= {"epochs": 8, "batchSize": 32, "targetTop1": 0.97}
    config = tmp_path / "training.yaml"
    config.write_text(yaml.safe_dump(settings))
    output = start(2, "-m", "resnext_trainer", "train", "--config", config, "--num-workers", 1, "--world-size", 2)
    report = report_in(output)
    assert report["verdict"] == "completed"
    assert report["progress"]["bestTop1"] >= 0.97


def test_ranks_common_error_reported_once(settings, tmp_path):
    """An error on all ranks is reported once, and all ranks exit with its status."""
    settings |= {"data": {"path": str(tmp_path / "nowhere")}}
    config = tmp_path / "training.yaml"
    config.write_text(yaml.safe_dump(settings))
    output = start(2, "-m", "resnext_trainer", "train", "--config", config, "--num-workers", 1, "--world-size", 2)
    assert output.count(REPORT_PREFIX) == 1
    assert '"invalid_data"' in output


EVALUATE = """
import os, sys
from resnext_trainer.cli.main import main
path = sys.argv[1] if os.environ["OMPI_COMM_WORLD_RANK"] == "0" else "/nowhere"
sys.exit(main(["evaluate", "--set", f"checkpoint.path={path}"]))
"""


def test_ranks_evaluate_error_on_one_ends_all(few):
    """If one rank finds no checkpoint, the other reports that error instead of waiting for it."""
    trained(few | {"epochs": 1})
    ended = subprocess.run(
        [*mpi.mpirun(2), sys.executable, "-c", EVALUATE, few["checkpoint"]["path"]],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 9
    assert ended.stderr.count("/nowhere contains no checkpoint") == 2


@pytest.mark.slow
def test_ranks_save_within_epoch_at_same_step(few, tmp_path):
    """Rank 0's clock decides for all ranks; each rank keeps its own statistics, and no result changes."""
    results = []
    for minutes in (1e-9, 0):
        place = tmp_path / str(minutes)
        config = tmp_path / f"{minutes}.yaml"
        checkpoints = {"path": str(place), "keep": 100, "intervalMinutes": minutes}
        config.write_text(yaml.safe_dump(few | {"batchSize": 8, "epochs": 1, "checkpoint": checkpoints}))
        report = report_in(start(2, "-m", "resnext_trainer", "train", "--config", config, "--world-size", 2))
        assert report["verdict"] == "completed"
        results.append((sorted(path.name for path in located(place).glob("step-*")), newest(located(place))))
    (often, ours), (never, theirs) = results
    assert (len(often), len(never)) == (6, 1)
    assert ours[0] == theirs[0]
    for name, array in theirs[1].items():
        np.testing.assert_array_equal(ours[1][name], array, err_msg=name)


@pytest.mark.slow
def test_ranks_final_save_not_limited_by_stall_timeout(few, tmp_path):
    """Waiting ranks send heartbeats; finally all ranks report that the checkpoint was not saved."""
    volume = tmp_path / "volume"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", volume], check=False).returncode:
        pytest.skip("no mounts here")
    config = tmp_path / "training.yaml"
    checkpoints = {"path": str(volume), "saveTimeoutSeconds": 14}
    config.write_text(
        yaml.safe_dump(few | {"batchSize": 8, "epochs": 1, "stallTimeoutSeconds": 10, "checkpoint": checkpoints})
    )
    try:
        output = start(2, "-m", "resnext_trainer", "train", "--config", config, "--world-size", 2)
    finally:
        subprocess.run(["umount", "--lazy", volume], check=True)
    report = report_in(output)
    assert report["verdict"] == "checkpoint_not_saved"
    assert "No space left on device" in report["message"]
