"""Final checkpoint: it is retried, and an attempt that cannot save it ends with CHECKPOINT_NOT_SAVED."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from resnext_trainer.checkpoint import final_save, store
from resnext_trainer.contract import ExitStatus
from resnext_trainer.runtime.signals import Requests
from tests.support import runs
from tests.support.checkpoints import best
from tests.support.reports import report_in
from tests.support.runs import StopAfter, folder, newest, trained

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shortens the backoff of retries to tenths of a second."""
    monkeypatch.setattr(final_save, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(final_save, "_LOOK_SECONDS", 0.2)


@pytest.fixture
def failing(monkeypatch):
    """Makes the writes with these numbers (from 1, newest and best combined) fail; returns all started writes."""

    def fail(which, how=FULL):
        begun, write = [], store._write

        def writing(to, *what):
            begun.append(to.name)
            if which(len(begun), to.name):
                if callable(how):
                    how()
                raise FULL if callable(how) else how
            return write(to, *what)

        monkeypatch.setattr(store, "_write", writing)
        return begun

    return fail


def with_time(settings, seconds):
    return settings | {"checkpoint": {**settings["checkpoint"], "saveTimeoutSeconds": seconds}}


def refused(settings, **how):
    refusal = runs.refused(settings, **how)
    assert (refusal.verdict, refusal.collective) == (ExitStatus.CHECKPOINT_NOT_SAVED, True)
    return refusal.message


def test_save_failing_during_training_is_tolerated(few, failing):
    """A temporarily full disk costs only one intermediate checkpoint."""
    failing(lambda number, _: number <= 2)  # best and newest of the first epoch
    report = trained(few)
    assert (report.verdict, report.checkpoint.step) == ("completed", 12)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE])
def test_final_save_retried_until_success(few, failing, number):
    """`finished` means that the checkpoint of the last step and the best one are on disk."""
    begun = failing(lambda number, _: 3 <= number <= 7, OSError(number, os.strerror(number)))
    telemetry = StopAfter()
    report = trained(few, telemetry=telemetry)
    assert (report.verdict, report.checkpoint.step) == ("completed", 12)
    assert newest(few)[0].step == 12
    assert best(folder(few)).best_top1 == report.progress.best_top1
    assert len(begun) > 7
    assert "retrying to save step 12 (try 2" in telemetry.log.getvalue()


def test_final_save_failing_ends_as_not_saved(few, failing):
    """The message has the system's error, the newest checkpoint and the setting that helps."""
    failing(lambda number, _: number > 2)
    started = time.monotonic()
    message = refused(with_time(few, 2))
    assert message.startswith(f"the checkpoint at step 12 could not be saved in {few['checkpoint']['path']} (")
    assert "No space left on device; the newest checkpoint is at step 6" in message
    assert "checkpoint.saveTimeoutSeconds" in message
    assert time.monotonic() - started > 2
    assert newest(few)[0].step == 6


def test_final_save_hanging_write_ends_as_not_saved(few, failing):
    """A volume whose server does not respond must not block the attempt forever."""
    released = threading.Event()
    failing(lambda number, _: number > 2, how=lambda: released.wait(60))
    message = refused(with_time(few, 2))
    released.set()
    assert "the write did not finish" in message


def test_stop_without_checkpoint_ends_as_not_saved(few, failing):
    """A stop without a saved checkpoint is a failure; it is never reported as `stopped`."""
    failing(lambda *_: True)
    message = refused(with_time(few, 2), stop_after=2)
    assert "the checkpoint at step 3 could not be saved" in message
    assert "there is no checkpoint" in message


def test_stop_save_limited_by_grace_period(few, failing):
    """After the termination grace period the pod is killed before it can report."""
    failing(lambda *_: True)
    telemetry = StopAfter(2)
    telemetry.requests.seconds_to_save = 1.0
    started = time.monotonic()
    refused(few, telemetry=telemetry)  # of 600 s
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(("grace", "seconds"), [(120, 100), (30, 15), (5, 2.5), (float("inf"), float("inf"))])
def test_grace_period_reserves_time_to_exit(grace, seconds):
    """The reserve is for the current step and for the launcher's termination message."""
    assert Requests(grace).seconds_to_save == seconds


def test_final_save_failing_best_still_finishes(few, failing):
    """The last step is saved, so the training is finished; the message says that best is outdated."""
    failing(lambda _, name: name == "best")
    report = trained(with_time(few, 5))
    assert (report.verdict, report.checkpoint.step) == ("completed", 12)
    assert "; the best checkpoint could not be saved: [Errno 28]" in report.message


def test_finished_training_started_again_writes_nothing(few, failing):
    """The checkpoint on disk counts as saved."""
    trained(few)
    failing(lambda *_: True)
    assert trained(few, attempt=2).verdict == "completed"


# -- whole processes ---------------------------------------------------------------------------------------------------

SYNTHETIC = {"format": "synthetic", "syntheticImages": 64}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users and mounts")


# Other users may be unable to read the interpreter, so import everything before changing the user.
TRAIN = """
import os, sys
import resnext_trainer.training.entrypoint
import resnext_trainer.runtime.watchdog
import resnext_trainer.cli.main
import resnext_trainer.config.loading
from resnext_trainer.__main__ import main
uid = int(sys.argv[1])
if uid:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
sys.exit(main(sys.argv[2:]))
"""


def run(settings, place, uid=0):
    """Runs `resnext-train train` as this user; returns exit status, report and output."""
    config = place / "training.json"
    config.write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(uid), "train", "--config", config, "--metrics-port", "0"],
        env={**os.environ, "HOME": "/tmp", "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, report_in(done.stdout, done.stderr), done.stdout + done.stderr


@as_root
def test_train_process_full_volume_exits_10(settings, tmp_path):
    """Uses a real file system that is too small for a checkpoint."""
    volume = tmp_path / "volume"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", volume], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        settings |= {"data": SYNTHETIC, "checkpoint": {"path": str(volume), "saveTimeoutSeconds": 3}}
        code, report, output = run(settings, tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", volume], check=True)
    assert (code, report["verdict"]) == (10, "checkpoint_not_saved"), output
    assert "No space left on device" in report["message"]


@as_root
def test_train_process_without_permission_exits_2(settings):
    """The user of the process does not own the directory, as in a pod whose user does not own the volume."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        volume = Path(folder, "volume")
        volume.mkdir(0o755)
        code, report, output = run(
            settings | {"data": SYNTHETIC, "checkpoint": {"path": str(volume)}}, Path(folder), 1000
        )
    assert (code, report["verdict"]) == (2, "invalid_configuration"), output
    assert f"{volume} is not writable by uid 1000 (owner root, mode 0755): change the owner" in report["message"]
    assert "step 1" not in output
