"""Rollbacks: after a non-finite loss, the training returns to its last checkpoint.

A rollback reshuffles the rest of the epoch, so that the images after the checkpoint form different batches; each image
is still used once. Transient hardware faults disappear on any retry. Different batches avoid the batch that made the
weights diverge (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1). With a learning rate that is too high, the
training fails after `maxRollbacks`.
"""

import dataclasses

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError


def check_allowed(rollbacks: int, max_rollbacks: int, cause: str) -> None:
    """Raises TrainingError on every rank if no rollbacks remain.

    rollbacks: number of rollbacks so far. cause: the non-finite value and its step, for the message.
    """
    if rollbacks >= max_rollbacks:
        raise TrainingError(
            ExitStatus.NON_FINITE_LOSS,
            f"{cause}, after {rollbacks} rollbacks (maxRollbacks {max_rollbacks}): lower optimizer.learningRate, or "
            "check the dataset",
            collective=True,
        )


def reshuffled(restored: TrainingPosition, rollbacks: int) -> TrainingPosition:
    """Position of the checkpoint, with the remaining images of its epoch reshuffled.

    rollbacks: number of rollbacks, including this one.
    """
    redealt = (*restored.redealt, (restored.images, rollbacks))
    return dataclasses.replace(restored, rollbacks=rollbacks, redealt=redealt)
