"""Invalid specs and damaged files are rejected with the name of the field or file."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.support.kube import ONE_WORKER, SMALL_NETWORK, Cluster, Refused, sample


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"epoch": 3},
        {"precision": {"mode": "fp64"}},
        {"epochs": 3, "optimizer": {"warmupEpochs": 4.0}},
        {"precision": {"mode": "bf16", "lossScale": 8}},
        {"augmentation": {"cropArea": [1.0, 0.5]}},
    ],
    ids=["too low", "unknown", "no such mode", "warm-up too long", "loss scale of bf16", "areas reversed"],
)
def test_api_server_and_trainer_reject_with_same_message(cluster: Cluster, tmp_path, change):
    """The trainer's message is part of the API server's."""
    manifest = sample("resnext-digits", "refused", {"training": change})
    with pytest.raises(Refused) as refusal:
        cluster.apply(manifest)
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "resnext_trainer", "inspect", "--config", tmp_path / "training.yaml"]
    trainer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert trainer.returncode == 2
    (sentence,) = trainer.stderr.splitlines()
    field, _, reason = sentence.partition(": ")
    assert field in str(refusal.value)
    # The validators quote the value differently.
    assert re.sub(r'^Invalid value: ([-.\d]+: |"[^"]*": )?', "", reason) in str(refusal.value)


def test_failed_worker_start_is_counted(cluster: Cluster):
    """A volume over /usr hides the program; the runtime's message is in the status."""
    hidden = {"volumes": [{"name": "x", "emptyDir": {}}], "volumeMounts": [{"name": "x", "mountPath": "/usr"}]}
    cluster.apply(sample("resnext-digits", "hidden", {"workers": hidden, "runPolicy": {"backoffLimit": 1}}))
    try:
        cluster.until("hidden", lambda status: status.get("phase") == "Failed")
        status = cluster.status("hidden")
        assert status["reason"] == "BackoffLimitExceeded"
        first, second = status["failedStarts"]
        for start in (first, second):
            assert "no such file or directory" in " ".join(start["log"])
        assert status["failures"] == 2
        assert cluster.pods("hidden", "worker"), "cleanPodPolicy keeps failed pods"
    finally:
        cluster.kubectl("delete", "rnx/hidden", "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def damaged(cluster: Cluster) -> None:
    """Copies of the digits in directories of their claim, each with one defect."""
    script = """
        mkdir cut unindexed empty
        cp train-* validation-* cut
        cp train-* validation-* unindexed
        truncate --size=-100 cut/train-00001-of-00004
        rm unindexed/validation-00000-of-*.idx
    """
    cluster.job("damage", script, "digits-data")


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("cut", "/data/train-00001-of-00004 is truncated"),
        ("unindexed", ".idx is missing; create the index with `resnext-train data index"),
        ("empty", "no train-* file in /data"),
    ],
)
def test_invalid_dataset_fails_naming_file(cluster: Cluster, training, folder, words):
    """The attempt ends with exit code 3 and names the file."""
    name = training(dataset={"subPath": folder}, workers=ONE_WORKER)
    cluster.until(name, lambda status: status.get("phase") == "Failed")
    status = cluster.status(name)
    (attempt,) = status["attempts"]
    assert attempt["exitCode"] == 3
    assert words in attempt["message"]
    (failed,) = (each for each in status["conditions"] if each["type"] == "Failed")
    assert words in failed["message"]


def test_truncated_checkpoint_falls_back_to_previous(cluster: Cluster, training):
    """Training resumes from the checkpoint before the damaged one."""
    name = training(training={"model": SMALL_NETWORK, "epochs": 12}, workers=ONE_WORKER)
    cluster.until(name, lambda status: (status.get("checkpoint") or {}).get("step", 0) >= 60)
    cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    cluster.until(name, lambda status: status.get("phase") == "Suspended", seconds=90)
    newest = cluster.status(name)["checkpoint"]["path"].removeprefix("/checkpoints/")
    cluster.job("cut", f"truncate --size=-100 {newest}/state.npz", f"{name}-checkpoints")
    cluster.kubectl("patch", "rnx", name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    cluster.until(name, lambda status: status.get("phase") == "Succeeded", seconds=420)
    log = cluster.kubectl("logs", f"{name}-launcher-2")
    assert f"{newest} is incomplete" in log
    assert "resuming from step" in log
