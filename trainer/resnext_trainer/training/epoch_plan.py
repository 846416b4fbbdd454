"""The steps of an epoch, and how far a position is in the training."""

import dataclasses
from dataclasses import dataclass

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError


@dataclass(frozen=True)
class EpochPlan:
    """Epochs of steps, each of which takes a global batch; the images that are left over at the end are not used."""

    epochs: int
    images: int
    """Training images."""
    global_batch: int

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.images // self.global_batch

    def has_step(self, position: TrainingPosition) -> bool:
        """Whether another step fits into the epoch."""
        return position.images + self.global_batch <= self.images

    def after_step(self, position: TrainingPosition) -> TrainingPosition:
        """The position one step later."""
        return dataclasses.replace(position, step=position.step + 1, images=position.images + self.global_batch)

    def after_epoch(self, position: TrainingPosition) -> TrainingPosition:
        """The beginning of the next epoch."""
        return dataclasses.replace(position, epoch=position.epoch + 1, images=0, redealt=())

    def epochs_done(self, position: TrainingPosition) -> float:
        """Epochs done, fractional."""
        # Images, not steps: a training that resumes with another number of ranks has steps of another size.
        return position.epoch + min(1.0, position.images / (self.steps * self.global_batch))

    def steps_left(self, position: TrainingPosition) -> int:
        """Steps from here to the end of the training."""
        left = (self.images - position.images) // self.global_batch
        return max(0, left + (self.epochs - position.epoch - 1) * self.steps)


def plan_epochs(config: Training, images: int, ranks: int) -> EpochPlan:
    """Raises TrainingError, on every rank alike, where there are fewer images than one step takes."""
    plan = EpochPlan(config.epochs, images, config.global_batch(ranks))
    if not plan.steps:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"one step takes {plan.global_batch} images (batchSize {config.batch_size} x gradientAccumulation "
            f"{config.gradient_accumulation} on {ranks} ranks) and there are {images}: lower "
            "batchSize, or use fewer workers",
            collective=True,
        )
    return plan
