import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from resnext_trainer.report import REPORT_TAG

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None or shutil.which("mpirun") is None,
    reason="several ranks need Horovod and mpirun",
)

MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-bind-to", "none", "-np"]


def start(ranks, *command, code=0):
    """Runs a command on so many ranks; its standard output."""
    # Ranks that share cores must not spin while they wait for each other.
    environment = {**os.environ, "OMPI_MCA_mpi_yield_when_idle": "1"}
    done = subprocess.run(
        [*MPIRUN, str(ranks), sys.executable, *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_two_ranks_take_the_step_one_rank_would(digits_folder, tmp_path):
    script = Path(__file__).with_name("ranks.py")
    for ranks in (1, 2):
        start(ranks, script, digits_folder, tmp_path / f"{ranks}.npz", 32)
    one, two = np.load(tmp_path / "1.npz"), np.load(tmp_path / "2.npz")
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_two_ranks_learn_digits(settings, tmp_path):
    """The whole way of a user: a file, two ranks, an accuracy."""
    settings |= {"epochs": 8, "batchSize": 32, "stopAt": {"top1": 0.97}}
    config = tmp_path / "training.yaml"
    config.write_text(yaml.safe_dump(settings))
    output = start(2, "-m", "resnext_trainer", "train", "--config", config, "--workers", 1, "--world", 2)
    reports = [json.loads(line.removeprefix(REPORT_TAG)) for line in output.splitlines() if line.startswith(REPORT_TAG)]
    assert len(reports) == 1, output
    assert reports[0]["verdict"] == "finished"
    assert reports[0]["progress"]["bestTop1"] >= 0.97


def test_a_refusal_is_reported_once_and_ends_all_ranks_in_order(settings, tmp_path):
    settings |= {"data": {"path": str(tmp_path / "nowhere")}}
    config = tmp_path / "training.yaml"
    config.write_text(yaml.safe_dump(settings))
    output = start(2, "-m", "resnext_trainer", "train", "--config", config, "--workers", 1, "--world", 2)
    assert output.count(REPORT_TAG) == 1
    assert '"data_refused"' in output
