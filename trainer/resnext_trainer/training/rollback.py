"""Rollbacks: after a non-finite loss, the training returns to its last checkpoint.

A rollback reshuffles the rest of the epoch, so that the images after the checkpoint form different batches; each image
is still used once. Transient hardware faults disappear on any retry. Different batches avoid the batch that made the
weights diverge (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1). With a learning rate that is too high, the
training fails after `maxRollbacks`.
"""

import dataclasses

from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime.console import Console
from resnext_trainer.runtime.metrics import Metrics
from resnext_trainer.training.checkpoint_saver import CheckpointSaver
from resnext_trainer.training.run_recorder import RunRecorder
from resnext_trainer.training.step_runner import StepRunner


class Rollback:
    """Returns a training to its last checkpoint, or to the start."""

    def __init__(
        self,
        max_rollbacks: int,
        state: TrainState,
        checkpoints: CheckpointManager,
        steps: StepRunner,
        saver: CheckpointSaver,
        recorder: RunRecorder,
        metrics: Metrics,
        console: Console,
    ) -> None:
        self._max_rollbacks = max_rollbacks
        self._state, self._checkpoints, self._steps = state, checkpoints, steps
        self._saver, self._recorder, self._metrics, self._console = saver, recorder, metrics, console

    def run(self, position: TrainingPosition, cause: str) -> TrainingPosition:
        """Rolls back from this position and returns the position from which the training continues.

        cause: the non-finite value and its step, for the message. Raises TrainingError on every rank if no rollbacks
        remain.
        """
        number = position.rollbacks + 1
        if number > self._max_rollbacks:
            raise TrainingError(
                ExitStatus.NON_FINITE_LOSS,
                f"{cause}, after {position.rollbacks} rollbacks (maxRollbacks {self._max_rollbacks}): lower "
                "optimizer.learningRate, or check the dataset",
                collective=True,
            )
        self._state.reset()
        restored = self._checkpoints.restore()
        self._steps.restart()
        self._saver.schedule()
        self._recorder.restart(restored.step)
        self._metrics.rolled_back()
        self._console.note(
            f"{cause}: rolled back to step {restored.step}, reshuffling the rest of its epoch "
            f"(rollback {number} of {self._max_rollbacks})"
        )
        return _reshuffled(restored, number)


def _reshuffled(restored: TrainingPosition, rollbacks: int) -> TrainingPosition:
    """Position of the checkpoint, with the remaining images of its epoch reshuffled.

    rollbacks: number of rollbacks, including this one.
    """
    redealt = (*restored.redealt, (restored.images, rollbacks))
    return dataclasses.replace(restored, rollbacks=rollbacks, redealt=redealt)
