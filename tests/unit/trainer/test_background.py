"""Work of the run log and of result readers next to the main thread."""

import subprocess
import sys
import threading
import time

import pytest

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.validation import resolve
from resnext_trainer.data import native_decoder
from resnext_trainer.data.input_pipeline import Shard, open_input_pipeline
from resnext_trainer.data.sampling import _prefetched
from resnext_trainer.runtime.background import BackgroundThreads
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.training import run_recorder
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.run_recorder import RunRecorder
from resnext_trainer.training.throughput import PhaseFractions


def test_background_thread_keeps_order_after_error():
    """Calls run in order; an exception reaches its own future only."""
    thread: BackgroundThreads[int] = BackgroundThreads("test")
    failed, last = thread.submit(lambda: 1 // 0), thread.submit(lambda: 7)
    assert last.result(5) == 7
    assert isinstance(failed.exception(0), ZeroDivisionError)


def test_background_thread_hanging_call_allows_exit():
    """A device or volume that hangs does not keep the process from ending."""
    code = (
        "import time; from resnext_trainer.runtime.background import BackgroundThreads\n"
        "BackgroundThreads('hung').submit(lambda: time.sleep(60))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_prefetch_hanging_read_allows_exit():
    """Storage that hangs does not keep a training that was stopped from ending."""
    code = (
        "import time; from resnext_trainer.data.sampling import _prefetched\n"
        "batches = _prefetched(lambda number: number and time.sleep(60), range(9))\n"
        "next(batches)\n"
        "batches.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_background_threads_closed_end():
    """Calls that have not begun are dropped, and the threads end after their current call."""
    release = threading.Event()
    calls: list[None] = []

    def call():
        calls.append(None)
        return release.wait(60)

    threads: BackgroundThreads[bool] = BackgroundThreads("closed", 2)
    with threads:
        for _ in range(9):
            threads.submit(call)
        while len(calls) < 2:
            time.sleep(0.01)
    alive = [each for each in threading.enumerate() if each.name == "closed"]
    assert len(alive) == 2
    release.set()
    for each in alive:
        each.join(20)
        assert not each.is_alive()
    assert len(calls) == 2


class Volume:
    """A log whose volume is slow, or fails with an error that is not tolerated."""

    def __init__(self):
        self.ready, self.done, self.error = threading.Event(), [], None

    def truncate_after(self, step):
        self._write(f"truncated after {step}")

    def add(self, record):
        self._write(f"step {record.step}")

    def _write(self, what):
        assert self.ready.wait(10)
        if self.error:
            raise self.error
        self.done.append(what)


@pytest.fixture
def volume():
    return Volume()


@pytest.fixture
def recorder(volume):
    phases = PhaseTimer(Metrics(), Heartbeat(0))
    return RunRecorder(volume, EpochPlan(1, 100, 1), PhaseFractions(phases))


def test_run_recorder_does_not_wait_for_volume(recorder, volume):
    """Records are written in order while the training continues, and all of them before it ends."""
    recorder.restart(0)
    for step in (1, 2):
        recorder.record(TrainingPosition(step=step), loss=1.0)
    assert volume.done == []
    volume.ready.set()
    recorder.close()
    assert volume.done == ["truncated after 0", "step 1", "step 2"]


def test_run_recorder_close_gives_up_on_hung_volume(recorder, monkeypatch):
    """The end of a training does not wait for a volume that hangs."""
    monkeypatch.setattr(run_recorder, "_CLOSE_SECONDS", 0.01)
    recorder.record(TrainingPosition(step=1), loss=1.0)
    recorder.close()


def test_run_recorder_raises_unexpected_error(recorder, volume):
    """A programming error in the log is not lost."""
    volume.error = ValueError("unexpected")
    volume.ready.set()
    recorder.record(TrainingPosition(step=1), loss=1.0)
    recorder.close()
    with pytest.raises(ValueError, match="unexpected"):
        recorder.record(TrainingPosition(step=2), loss=1.0)


def closes_at_once(generator, release):
    """Whether closing it does not wait for its threads, which wait for `release`."""
    closing = threading.Thread(target=generator.close, daemon=True)
    closing.start()
    closing.join(5)
    ended = not closing.is_alive()
    release.set()
    closing.join()
    return ended


def test_closed_prefetch_does_not_wait_for_readers():
    """The garbage collector may close it in a thread that holds the locks which joining a thread needs."""
    release = threading.Event()

    def load(number):
        if number:
            release.wait(60)
        return number

    generator = _prefetched(load, range(100))
    next(generator)
    assert closes_at_once(generator, release)


@pytest.mark.skipif(not native_decoder.available(), reason="resnext-native is not installed")
def test_closed_native_pipeline_does_not_wait_for_decoder(few, monkeypatch):
    """Like the readers."""
    release, decode = threading.Event(), native_decoder.decode
    decoded = []

    def slow(*given):
        decoded.append(given)
        if len(decoded) > 1:
            release.wait(60)
        return decode(*given)

    monkeypatch.setattr(native_decoder, "decode", slow)
    data = {**few["data"], "pipeline": "native"}
    generator = open_input_pipeline(resolve(few | {"data": data}), Shard(0, 1)).train(0)
    next(generator)
    assert closes_at_once(generator, release)
