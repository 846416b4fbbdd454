"""Overlap of a step's result with the gradients of the next step; no TensorFlow graph runs."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import tensorflow as tf

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.model import train_step
from resnext_trainer.model.train_step import Gradients, RankRequests, StepResult
from resnext_trainer.runtime.distributed import SingleProcess
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.training import overlapped_steps
from resnext_trainer.training.epoch_plan import EpochPlan
from resnext_trainer.training.overlapped_steps import OverlappedSteps

PLAN = EpochPlan(epochs=1, images=4, global_batch=1)
SYNCHRONIZED = ["allreduce", "optimizer"]


class Device:
    """Records what the host starts and awaits, instead of the functions of train_step."""

    def __init__(self, monkeypatch):
        self.events: list[str] = []
        self.synchronized: list[bool] = []
        self.requests: list[RankRequests] = []
        monkeypatch.setattr(train_step, "forward_backward", self.forward_backward)
        monkeypatch.setattr(train_step, "apply_gradients", self.apply_gradients)
        monkeypatch.setattr(train_step, "add", lambda one, _other: one)

    def forward_backward(self, _state, images, _labels, _mix):
        self.events.append(f"gradients {images}")
        return Gradients([images], {}, tf.constant(0.0))

    def apply_gradients(self, _state, _communicator, gradients, _rate, requests, phase, synchronize):
        for name in SYNCHRONIZED:
            with phase(name):
                pass
        (number,) = gradients.weights
        self.events.append(f"update {number}")
        self.synchronized.append(synchronize)
        self.requests.append(requests)

        def wait():
            self.events.append(f"result {number}")
            return StepResult(float(number), finite=True, stop=False, save=False)

        return SimpleNamespace(wait=wait)


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


class Run:
    """Steps of an epoch of four."""

    def __init__(self, **settings):
        self.phases = PhaseTimer(Metrics(), Heartbeat(0))
        config = Training.model_validate({"batchSize": 1, **settings})
        self.steps = OverlappedSteps(config, PLAN, SingleProcess(), None, self.phases)  # type: ignore[arg-type]
        self.begin(TrainingPosition())

    def begin(self, position):
        self.position = position
        self.batches = ((number, None) for number in range(position.images, 100))

    def step(self):
        following = PLAN.after_step(self.position)
        result = self.steps.run(self.batches, self.position, following, 0.1, RankRequests)
        self.position = following
        return result


def test_steps_start_next_gradients_before_result(device):
    """The device has the next gradients to compute when the host waits; an epoch's last step has no successor."""
    run = Run()
    assert [run.step().loss for _ in range(4)] == [0, 1, 2, 3]
    assert device.events == [
        *("gradients 0", "update 0", "gradients 1", "result 0"),
        *("update 1", "gradients 2", "result 1"),
        *("update 2", "gradients 3", "result 2"),
        *("update 3", "result 3"),
    ]


def test_steps_accumulated_batches_stay_with_their_step(device):
    """With gradient accumulation, a step takes the next batches as a whole."""
    run = Run(gradientAccumulation=2)
    for _ in range(2):
        run.step()
    updates = [event for event in device.events if event.startswith("update")]
    assert updates == ["update 0", "update 2"]
    assert device.events.index("gradients 3") < device.events.index("result 0")


def test_steps_discarded_gradients_never_applied(device):
    """After a rollback, the step is computed again from the batches of the restored position."""
    run = Run()
    run.step()
    run.steps.discard()
    device.events.clear()
    run.begin(TrainingPosition(step=0, images=0))
    run.step()
    assert device.events[:2] == ["gradients 0", "update 0"]


def test_steps_synchronized_first_two_then_sampled(device, monkeypatch):
    """The first step compiles and the second is a sample; later samples are rare, on the same steps of all ranks."""
    monkeypatch.setattr(overlapped_steps, "_STEPS_PER_SAMPLE", 3)
    run = Run()
    for _ in range(3):
        for _ in range(4):
            run.step()
        run.begin(TrainingPosition())
    epochs = [device.synchronized[first : first + 4] for first in (0, 4, 8)]
    assert epochs == [[True, True, False, False], [False, True, False, False], [False, True, False, False]]


def test_steps_sample_without_gradients_is_postponed(device, monkeypatch):
    """The last step of an epoch computes no gradients, so it cannot show their share of the time."""
    monkeypatch.setattr(overlapped_steps, "_STEPS_PER_SAMPLE", 1)
    run = Run()
    for _ in range(4):
        run.step()
    assert device.synchronized == [True, True, False, False]
    run.begin(TrainingPosition())
    run.step()
    assert device.synchronized[-1]


@pytest.mark.usefixtures("device")
def test_steps_first_parts_count_as_compile(monkeypatch):
    """The first gradients and the first update are compiled; the all-reduce is a phase of its own from the start."""
    run, names = Run(), []

    def phase(name):
        names.append(name)
        return nullcontext()

    monkeypatch.setattr(run.phases, "phase", phase)
    run.step()
    assert names == ["data_wait", "compile", "allreduce", "compile", "data_wait", "compute", "allreduce"]
