"""Lock of a run: one process at a time writes its checkpoints. The tests use real processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from resnext_trainer.checkpoint import lock
from resnext_trainer.checkpoint.lock import Holder, Timing
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from tests.support.processes import output

QUICK = Timing(refresh=0.05, expiry=0.6, poll=0.02)

PATIENT = replace(QUICK, expiry=60)
"""For tests that expect a refusal: a slow machine must not make the lock expire."""

HOLD = """
import sys, time
from pathlib import Path
from resnext_trainer.checkpoint import lock
from resnext_trainer.checkpoint.lock import Holder, Timing
from resnext_trainer.errors import TrainingError
timing = Timing(refresh=0.05, expiry=float(sys.argv[5]), poll=0.02)
try:
    held = lock.acquire(Path(sys.argv[1]), Holder(sys.argv[2], int(sys.argv[3])), float(sys.argv[4]), print, timing)
except TrainingError as refused:
    sys.exit(refused.verdict.value)
print("held", flush=True)
{}
"""

KEEP = "time.sleep(60)"

COUNT = """
counter = Path(sys.argv[1], "counter")
for _ in range(10):
    number = int(counter.read_text())
    time.sleep(0.002)
    held.check()
    counter.write_text(str(number + 1))
held.release()
"""


def process(folder, training, attempt=1, wait=10.0, then=KEEP, timing=QUICK):
    options = [str(folder), training, str(attempt), str(wait), str(timing.expiry)]
    command = [sys.executable, "-c", HOLD.format(then), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def other(tmp_path):
    """Starts processes that hold the lock, and ends them."""
    started = []

    def start(training, attempt=1):
        started.append(process(tmp_path, training, attempt))
        assert output(started[-1]).readline() == "held\n"
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def acquire(folder, training="b", attempt=1, wait=0.2, timing=QUICK):
    return lock.acquire(folder, Holder(training, attempt), wait, lambda _: None, timing)


def refused(act, *arguments, **named):
    with pytest.raises(TrainingError) as caught:
        act(*arguments, **named)
    return caught.value


def test_lock_held_by_other_training_rejected(tmp_path, other):
    """A refreshed lock does not expire; the error can be retried and names the holder."""
    other("a", 3)
    timing = replace(QUICK, expiry=3)
    refusal = refused(acquire, tmp_path, wait=4, timing=timing)
    assert refusal.verdict is ExitStatus.CHECKPOINT_LOCKED
    assert "training a, attempt 3" in refusal.message


@pytest.mark.parametrize("slow", ["sync", "read"])
def test_lock_slow_storage_does_not_age_refreshed_lock(tmp_path, monkeypatch, other, slow):
    """Each access takes longer than the expiry, as on a hanging NFS server."""
    other("a")
    module, name = {"sync": (os, "fsync"), "read": (lock, "_read")}[slow]
    original = getattr(module, name)

    def delayed(*given):
        found = original(*given)
        time.sleep(QUICK.expiry + 0.2)
        return found

    monkeypatch.setattr(module, name, delayed)
    assert refused(acquire, tmp_path, wait=3).verdict is ExitStatus.CHECKPOINT_LOCKED


def test_lock_of_stopped_process_expires(tmp_path):
    """A process that was stopped and continues has lost the lock, and writes no checkpoint."""
    writer = subprocess.Popen(
        [sys.executable, "-c", HOLD.format("time.sleep(1)\nheld.check()"), str(tmp_path), "a", "1", "5", "0.6"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert output(writer).readline() == "held\n"
    writer.send_signal(signal.SIGSTOP)
    mine = acquire(tmp_path, wait=5)
    writer.send_signal(signal.SIGCONT)
    _, errors = writer.communicate(timeout=20)
    assert "took over the lock" in errors
    assert writer.returncode == 1
    mine.check()
    mine.release()


def test_lock_of_killed_process_is_free_at_once(tmp_path, other):
    """On the same machine no process waits for the expiry."""
    killed = other("a")
    killed.kill()
    killed.wait()
    started = time.monotonic()
    lock.acquire(tmp_path, Holder("b", 1), 0, timing=Timing()).release()
    assert time.monotonic() - started < 1


def test_lock_of_lost_machine_expires(tmp_path):
    """The process of the holder is not visible, so only the age of the lock counts."""
    first = lock.acquire(tmp_path, replace(Holder("a", 1), process="other-boot pid:[1] 7 99"), 0, timing=QUICK)
    first._ended.set()  # it is no longer refreshed
    assert refused(acquire, tmp_path, wait=0, timing=PATIENT).verdict is ExitStatus.CHECKPOINT_LOCKED
    acquire(tmp_path, wait=5).release()


@pytest.mark.parametrize("process", ["", "nonsense", "a b c d e"])
def test_lock_without_process_identity_honored(tmp_path, process):
    """Covers systems without an identity in /proc and formats of later versions."""
    first = lock.acquire(tmp_path, replace(Holder("a", 1), process=process), 0, timing=QUICK)
    assert refused(acquire, tmp_path, wait=0, timing=PATIENT).verdict is ExitStatus.CHECKPOINT_LOCKED
    first.release()


def test_lock_higher_attempt_takes_over(tmp_path):
    """The lower attempt loses the lock before its next rename, without waiting for a refresh."""
    old = lock.acquire(tmp_path, Holder("a", 1), 0, timing=Timing())
    new = lock.acquire(tmp_path, Holder("a", 2), 0, timing=Timing())
    refusal = refused(old.check)
    assert refusal.verdict is ExitStatus.CHECKPOINT_LOCKED
    assert "attempt 2" in refusal.message
    old.release()
    new.check()
    new.release()
    assert list(tmp_path.iterdir()) == []


def test_lock_lower_attempt_fails_at_once(tmp_path, other):
    """A lower attempt is stale, so waiting does not help."""
    other("a", 2)
    started = time.monotonic()
    refusal = refused(acquire, tmp_path, "a", 1, wait=60)
    assert time.monotonic() - started < 5
    assert refusal.verdict is ExitStatus.CHECKPOINT_LOCKED


def test_lock_same_attempt_other_process_rejected(tmp_path, other):
    """Two processes of the same attempt must not both write."""
    other("a", 2)
    assert refused(acquire, tmp_path, "a", 2, timing=PATIENT).verdict is ExitStatus.CHECKPOINT_LOCKED


def test_lock_released_removes_file(tmp_path):
    """After a release another process gets the lock at once."""
    acquire(tmp_path, "a").release()
    assert list(tmp_path.iterdir()) == []
    acquire(tmp_path, "b", wait=0).release()


def test_lock_waiting_process_acquires_on_release(tmp_path):
    """The waiting process logs the holder once."""
    held, printed = acquire(tmp_path, "a"), []
    waiter = process(tmp_path, "b", wait=20)
    assert "locked by training a, attempt 1" in output(waiter).readline()
    held.release()
    printed.append(output(waiter).readline())
    waiter.kill()
    waiter.wait()
    assert printed == ["held\n"]


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\xff", b"[]", b'{"training": 1}'])
def test_lock_invalid_file_honored_until_expiry(tmp_path, content):
    """It may be a file that is being written; one left by a crash expires."""
    file = tmp_path / "lock-00000001"
    file.write_bytes(content)
    assert refused(acquire, tmp_path, wait=0, timing=PATIENT).verdict is ExitStatus.CHECKPOINT_LOCKED
    old = time.time() - 3600
    os.utime(file, (old, old))
    acquire(tmp_path, wait=0).release()


def test_lock_age_uses_file_server_clock(tmp_path, monkeypatch):
    """A local clock that is wrong by a day changes nothing."""
    held = lock.acquire(tmp_path, replace(Holder("a", 1), process=""), 0, timing=QUICK)
    for shift in (-86_400, 86_400):
        now = time.time() + shift
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert refused(acquire, tmp_path, wait=0, timing=PATIENT).verdict is ExitStatus.CHECKPOINT_LOCKED
    held.release()


def test_lock_with_future_mtime_expires(tmp_path):
    """After the server's clock was set back, the age of such a lock never reaches the expiry."""
    file = tmp_path / "lock-00000001"
    file.write_bytes(b"")
    later = time.time() + 3600
    os.utime(file, (later, later))
    acquire(tmp_path, wait=5).release()


def test_lock_removed_file_counts_as_lost(tmp_path):
    """Another process may write in a directory that was emptied."""
    held = lock.acquire(tmp_path, Holder("a", 1), 0, timing=Timing())
    (tmp_path / "lock-00000001").unlink()
    assert "was removed" in refused(held.check).message
    held.release()


def test_lock_loss_detected_by_refresh(tmp_path):
    """The training then ends at its next step without an access to the disk."""
    held = acquire(tmp_path, "a")
    held.check_known()
    newer = acquire(tmp_path, "a", 2)
    time.sleep(4 * QUICK.refresh)
    refused(held.check_known)
    newer.release()


def test_lock_racing_processes_never_write_together(tmp_path):
    """Six processes count to sixty together; a lost update would show that two held the lock."""
    (tmp_path / "counter").write_text("0")
    racers = [process(tmp_path, f"t{number}", wait=60, then=COUNT, timing=PATIENT) for number in range(6)]
    assert [each.wait(60) for each in racers] == [0] * 6
    assert (tmp_path / "counter").read_text() == "60"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]
