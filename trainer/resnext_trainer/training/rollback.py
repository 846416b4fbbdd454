"""Rollbacks: after a loss that is not finite the training returns to its last checkpoint.

The second try differs from the first: the images of the epoch that the checkpoint has not seen come in another order,
and so in other batches, each still once. If the hardware was at fault, anything would help; if the weights of that
moment could not take a batch, other batches are what helped others (Chowdhery et al. 2022, arXiv:2204.02311, section
5.1); if the learning rate is too high, nothing helps, and `maxRollbacks` ends the rollbacks.
"""

import dataclasses

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError


def check_allowed(rollbacks: int, max_rollbacks: int, cause: str) -> None:
    """Raises TrainingError, on every rank alike, if the training has used up its rollbacks.

    rollbacks: those made so far. cause: what is not finite, and at which step.
    """
    if rollbacks >= max_rollbacks:
        raise TrainingError(
            ExitStatus.NON_FINITE_LOSS,
            f"{cause}, after {rollbacks} rollbacks of maxRollbacks {max_rollbacks}: lower optimizer.learningRate, or "
            "look at the images",
            collective=True,
        )


def reshuffled(restored: TrainingPosition, rollbacks: int) -> TrainingPosition:
    """The checkpoint's position, with another order for the images that its epoch has left.

    rollbacks: those made so far, with this one.
    """
    redealt = (*restored.redealt, (restored.images, rollbacks))
    return dataclasses.replace(restored, rollbacks=rollbacks, redealt=redealt)
