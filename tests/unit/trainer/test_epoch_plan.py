"""Arithmetic of epochs and steps."""

import pytest

from resnext_trainer.checkpoint.store import TrainingPosition
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.training.epoch_plan import EpochPlan, plan_epochs

PLAN = EpochPlan(epochs=3, images=100, global_batch=30)
"""Three steps per epoch, with ten unused images."""


def test_plan_steps_until_next_would_not_fit():
    """Images at the end of an epoch that do not fill a step are not used."""
    position = TrainingPosition()
    for _ in range(PLAN.steps):
        assert PLAN.has_step(position)
        position = PLAN.after_step(position)
    assert not PLAN.has_step(position)
    assert (position.step, position.images) == (3, 90)
    assert PLAN.epochs_done(position) == 1.0


def test_plan_next_epoch_forgets_images_and_rollbacks():
    """The step number continues; the reshuffles of rollbacks apply only to their own epoch."""
    after = PLAN.after_epoch(TrainingPosition(step=3, images=90, redealt=((30, 1),), rollbacks=1))
    assert after == TrainingPosition(step=3, epoch=1, rollbacks=1)


@pytest.mark.parametrize(
    ("position", "left"),
    [
        (TrainingPosition(), 9),
        (TrainingPosition(step=4, epoch=1, images=30), 5),
        (TrainingPosition(step=5, epoch=1, images=48), 4),  # resumed from steps of 48 images
        (TrainingPosition(step=9, epoch=3), 0),
    ],
)
def test_plan_steps_left(position, left):
    """The result is correct if the epoch started with another batch size."""
    assert PLAN.steps_left(position) == left


def test_plan_fewer_images_than_a_step_rejected():
    """Every rank raises the same error: the message contains the images per step."""
    config = resolve({"batchSize": 16, "gradientAccumulation": 2, "epochs": 1})
    assert plan_epochs(config, 64, 2).steps == 1
    with pytest.raises(
        TrainingError, match=r"one step takes 64 images .* there are only 63: lower batchSize"
    ) as caught:
        plan_epochs(config, 63, 2)
    assert (caught.value.verdict, caught.value.collective) == (ExitStatus.INVALID_CONFIGURATION, True)
