"""Exponential moving average of weights and batch norm statistics (Polyak and Juditsky 1992)."""

from typing import Any

import tensorflow as tf

from resnext_trainer.model.resnext import ResNeXt

PREFIX = "average/"
"""Prefix of the names of averaged variables in a checkpoint."""


class ExponentialMovingAverage:
    """The average of `model`, as a separate network that can be evaluated."""

    def __init__(self, model: ResNeXt, network: ResNeXt, decay: float) -> None:
        """network: same architecture as `model`; its variables are overwritten with the average."""
        self.network = network
        self._decay = decay
        self._updates = tf.Variable(0.0)
        self._pairs = [
            (average, now)
            for averages, variables in ((network.weights, model.weights), (network.statistics, model.statistics))
            for average, now in zip(averages.values(), variables.values(), strict=True)
        ]

    def update(self, made: Any) -> None:
        """Updates the average if the weights were updated: average <- d * average + (1 - d) * now."""
        # Smaller decay at the start, as in tf.train.ExponentialMovingAverage: otherwise the initial weights would
        # still have a weight of one half after 7,000 steps with a decay of 0.9999.
        decay = tf.minimum(self._decay, (1 + self._updates) / (10 + self._updates))
        share = tf.where(made, 1 - decay, 0.0)
        for average, now in self._pairs:
            average.assign_add(share * (now - average))
        self._updates.assign_add(tf.cast(made, tf.float32))

    def reset(self) -> None:
        """Resets every variable to its initial value."""
        self.network.reset()
        self._updates.assign(0.0)

    def state(self) -> dict[str, Any]:
        """Variables for the checkpoint, by name."""
        variables = {**self.network.weights, **self.network.statistics}
        return {**{PREFIX + name: value for name, value in variables.items()}, "average-updates": self._updates}
