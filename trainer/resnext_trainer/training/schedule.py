"""Learning rate as a function of epochs, which makes it independent of changes in the number of ranks."""

import math

from resnext_trainer.config.models import Optimizer


def learning_rate(optimizer: Optimizer, global_batch: int, epochs: float, done: float) -> float:
    """Learning rate of the step after `done` (fractional) of `epochs` epochs.

    The peak is the configured rate for a global batch of 256 and scales linearly with the global batch. Warm-up is
    linear from zero. The cosine starts at the first step of the training, not at the end of the warm-up.
    """
    peak = optimizer.learning_rate * global_batch / 256
    if global_batch >= optimizer.warmup_min_global_batch and done < optimizer.warmup_epochs:
        return peak * done / optimizer.warmup_epochs
    if optimizer.schedule == "step":
        return peak * 0.1 ** sum(done >= epoch for epoch in optimizer.step_epochs)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done / epochs, 1.0)))
