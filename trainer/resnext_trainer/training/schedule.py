"""The learning rate as a function of the epochs done, so that it survives a change of the number of ranks."""

import math

from resnext_trainer.config.models import Optimizer


def learning_rate(optimizer: Optimizer, global_batch: int, epochs: float, done: float) -> float:
    """The rate for the step after `done` epochs (fractional) of `epochs`.

    The peak is the configured rate at 256 images a step and grows with the global batch. Warm-up is linear from zero;
    the cosine counts from the first step of the training, not from the end of the warm-up.
    """
    peak = optimizer.learning_rate * global_batch / 256
    if global_batch >= optimizer.warmup_min_global_batch and done < optimizer.warmup_epochs:
        return peak * done / optimizer.warmup_epochs
    if optimizer.schedule == "step":
        return peak * 0.1 ** sum(done >= epoch for epoch in optimizer.step_epochs)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done / epochs, 1.0)))
