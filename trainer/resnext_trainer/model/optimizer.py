"""SGD with momentum as in the reference implementation, and loss scaling for float16.

v <- momentum * v + g, w <- w - lr * v. Keras includes the learning rate in v, which differs when the rate changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

INITIAL_SCALE = 2.0**15
MIN_SCALE = 1.0
"""The dynamic loss scale does not fall below this: smaller scales only make small gradients underflow."""
GROWTH_STEPS = 2000
"""Consecutive finite steps after which the dynamic loss scale doubles (Micikevicius et al. 2018, arXiv:1710.03740)."""


class SGDMomentum:
    """Velocity of each weight, and the loss scale. A step with non-finite gradients does not change the weights."""

    def __init__(
        self,
        weights: Mapping[str, Any],
        momentum: float,
        loss_scale: Literal["dynamic"] | float = 1.0,
        *,
        branch: bool = True,
    ) -> None:
        """branch: whether a conditional skips the update. On a GPU, the host would wait for the condition, and XLA
        would split the update. If False, a skipped step multiplies by one and adds zeros.
        """
        self._weights = list(weights.values())
        self._momentum, self._branch = momentum, branch
        self._dynamic, self._scaled = loss_scale == "dynamic", loss_scale != 1.0
        self.velocity = {name: tf.Variable(tf.zeros(weight.shape)) for name, weight in weights.items()}
        self._initial_scale = INITIAL_SCALE if loss_scale == "dynamic" else float(loss_scale)
        self.scale = tf.Variable(self._initial_scale)
        self.good_steps = tf.Variable(0.0)
        """Consecutive finite steps since the last change to the scale."""

    def apply(self, gradients: Sequence[Any], rate: Any) -> Any:
        """Applies gradients of the scaled loss. Returns whether the weights were updated.

        The gradients are averaged over the ranks, so after an overflow on one rank all ranks skip the step.
        """
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        if self._branch:
            tf.cond(finite, lambda: self._update(gradients, rate, self._momentum), tf.no_op)
        else:
            masked = [tf.where(finite, gradient, 0.0) for gradient in gradients]
            self._update(masked, tf.where(finite, rate, 0.0), tf.where(finite, self._momentum, 1.0))
        if self._dynamic:
            self._adjust_loss_scale(finite)
        return finite

    def reset(self) -> None:
        """Resets every variable to its initial value."""
        for velocity in self.velocity.values():
            velocity.assign(tf.zeros_like(velocity))
        self.scale.assign(self._initial_scale)
        self.good_steps.assign(0.0)

    def _update(self, gradients: Sequence[Any], rate: Any, momentum: Any) -> Any:
        for weight, velocity, gradient in zip(self._weights, self.velocity.values(), gradients, strict=True):
            # One fused operation: separate operations would access memory six times.
            tf.raw_ops.ResourceApplyMomentum(
                var=weight.handle,
                accum=velocity.handle,
                lr=rate,
                grad=gradient / self.scale if self._scaled else gradient,
                momentum=momentum,
            )
        return tf.no_op()

    def _adjust_loss_scale(self, finite: Any) -> None:
        good = tf.where(finite, self.good_steps + 1.0, 0.0)
        grown = good >= GROWTH_STEPS
        halved = tf.maximum(self.scale / 2.0, MIN_SCALE)
        self.scale.assign(tf.where(finite, tf.where(grown, self.scale * 2.0, self.scale), halved))
        self.good_steps.assign(tf.where(grown, 0.0, good))
