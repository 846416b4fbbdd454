"""An exponential moving average of the network's variables (Polyak and Juditsky 1992), batch norm's statistics too."""

from typing import Any

import tensorflow as tf

from resnext_trainer.model.resnext import ResNeXt

PREFIX = "average/"
"""Stands before a variable's name where a checkpoint keeps its average."""


class ExponentialMovingAverage:
    """The average of `model`, as a network of its own that can be evaluated."""

    def __init__(self, model: ResNeXt, network: ResNeXt, decay: float) -> None:
        """`network` is one like `model`, whose variables become the average."""
        self.network = network
        self._decay = decay
        self._updates = tf.Variable(0.0)
        self._pairs = [
            (average, now)
            for averages, variables in ((network.weights, model.weights), (network.statistics, model.statistics))
            for average, now in zip(averages.values(), variables.values(), strict=True)
        ]

    def update(self, made: Any) -> None:
        """Moves the average towards the variables, if the update was made; average <- d * average + (1 - d) * now."""
        # Less decay at the start, as tf.train.ExponentialMovingAverage has it: else the random beginning would
        # still weigh half after 7,000 steps of a decay of 0.9999.
        decay = tf.minimum(self._decay, (1 + self._updates) / (10 + self._updates))
        share = tf.where(made, 1 - decay, 0.0)
        for average, now in self._pairs:
            average.assign_add(share * (now - average))
        self._updates.assign_add(tf.cast(made, tf.float32))

    def reset(self) -> None:
        """Gives every variable its initial value again."""
        self.network.reset()
        self._updates.assign(0.0)

    def state(self) -> dict[str, Any]:
        """Its variables, as a checkpoint keeps them."""
        variables = {**self.network.weights, **self.network.statistics}
        return {**{PREFIX + name: value for name, value in variables.items()}, "average-updates": self._updates}
