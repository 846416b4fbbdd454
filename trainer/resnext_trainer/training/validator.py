"""Evaluation during a training."""

import dataclasses
from functools import partial

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.data.input_pipeline import InputPipeline
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import eval_step
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import Heartbeat
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.runtime.phases import PhaseTimer
from resnext_trainer.training.evaluate import Accuracy, evaluate
from resnext_trainer.training.run_recorder import RunRecorder


class Validator:
    """Measures the accuracy of the weights and, if averaging is enabled, of the averaged weights."""

    def __init__(
        self,
        source: InputPipeline,
        communicator: Communicator,
        state: TrainState,
        recorder: RunRecorder,
        metrics: Metrics,
        console: Console,
        heartbeat: Heartbeat,
        phases: PhaseTimer,
    ) -> None:
        self._source, self._communicator, self._state = source, communicator, state
        self._recorder, self._metrics, self._console = recorder, metrics, console
        self._heartbeat, self._phases = heartbeat, phases

    def run(self, position: TrainingPosition) -> TrainingPosition:
        """Evaluates, logs the result, and returns `position` with the accuracy."""
        state = self._state
        networks = [partial(eval_step, state.model)]
        if state.average:
            networks.append(partial(eval_step, state.average.network))
        with self._phases.phase("evaluation"):
            plain, *averaged = evaluate(networks, self._source, self._communicator, self._heartbeat.beat)
        accuracy = averaged[0] if averaged else plain
        before = position.best_top1
        position = dataclasses.replace(
            position,
            top1=accuracy.top1,
            top5=accuracy.top5,
            best_top1=accuracy.top1 if before is None else max(before, accuracy.top1),
        )
        self._metrics.accuracy(accuracy.top1, accuracy.top5)
        apart = {"raw_top1": plain.top1, "raw_top5": plain.top5} if averaged else {}
        self._recorder.record(position, top1=accuracy.top1, top5=accuracy.top5, **apart)
        self._console.note(
            f"epoch {position.epoch}: {_sentence(accuracy)}"
            + (f" with averaged weights; {_sentence(plain)} without averaging" if averaged else "")
        )
        return position


def _sentence(accuracy: Accuracy) -> str:
    return (
        f"top-1 {accuracy.top1:.4f}, top-5 {accuracy.top5:.4f} "
        f"({accuracy.right1} and {accuracy.right5} of {accuracy.images})"
    )
