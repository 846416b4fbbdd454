"""Steps of an epoch, and the progress of a position in the training."""

import dataclasses
from dataclasses import dataclass

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError


@dataclass(frozen=True)
class EpochPlan:
    """Number of epochs and steps. A step takes a global batch; the remaining images of an epoch are not used."""

    epochs: int
    images: int
    """Number of training images."""
    global_batch: int

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.images // self.global_batch

    def has_step(self, position: TrainingPosition) -> bool:
        """Whether another step fits into the epoch."""
        return position.images + self.global_batch <= self.images

    def after_step(self, position: TrainingPosition) -> TrainingPosition:
        """The position one step later."""
        return dataclasses.replace(position, step=position.step + 1, images=position.images + self.global_batch)

    def after_epoch(self, position: TrainingPosition) -> TrainingPosition:
        """The start of the next epoch."""
        return dataclasses.replace(position, epoch=position.epoch + 1, images=0, redealt=())

    def epochs_done(self, position: TrainingPosition) -> float:
        """Fractional number of epochs done."""
        # Count images, because the images per step change when a training resumes with a different number of ranks.
        return position.epoch + min(1.0, position.images / (self.steps * self.global_batch))

    def steps_left(self, position: TrainingPosition) -> int:
        """Steps from this position to the end of the training."""
        left = (self.images - position.images) // self.global_batch
        return max(0, left + (self.epochs - position.epoch - 1) * self.steps)


def plan_epochs(config: Training, images: int, ranks: int) -> EpochPlan:
    """Plans the epochs; raises TrainingError on every rank if there are fewer images than one step takes."""
    plan = EpochPlan(config.epochs, images, config.global_batch(ranks))
    if not plan.steps:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"one step takes {plan.global_batch} images (batchSize {config.batch_size} x gradientAccumulation "
            f"{config.gradient_accumulation} on {ranks} ranks), but there are only {images}: lower batchSize, or use "
            "fewer workers",
            collective=True,
        )
    return plan
