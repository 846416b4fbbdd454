"""One training step: gradients in one compiled function, then their average over the ranks and the update.

Accumulated batches count as further ranks would: gradients and batch norm's moved statistics are averaged over both.
So the update is that of the batch so many times as large, where batch norm normalises each part by itself.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from resnext_trainer.config.models import Training
from resnext_trainer.model.ema import PREFIX, ExponentialMovingAverage
from resnext_trainer.model.optimizer import SGDMomentum
from resnext_trainer.model.resnext import ResNeXt, build
from resnext_trainer.runtime.distributed import Communicator

_DTYPES = {"fp16": tf.float16, "bf16": tf.bfloat16, "tf32": tf.float32, "fp32": tf.float32}


class StepResult(NamedTuple):
    """What a step tells, alike on every rank."""

    loss: float
    """Mean cross entropy over the global batch."""
    finite: bool
    """Whether the update was made."""
    stop: bool
    """Whether any rank was asked to stop."""
    save: bool
    """Whether any rank finds that it is time for a checkpoint."""


class TrainState:
    """Network, optimizer, and what is done to them with each batch."""

    def __init__(self, config: Training, ranks: Communicator, device: str) -> None:
        self._config, self._ranks, self._device = config, ranks, device
        self.model = self._network()
        self._average = (
            ExponentialMovingAverage(self.model, self._network(), config.ema_decay) if config.ema_decay else None
        )
        scale = config.precision.loss_scale if config.precision.mode == "fp16" else 1.0
        self.optimizer = SGDMomentum(self.model.weights, config.optimizer.momentum, scale)
        # Chosen here and not in the graph: XLA then compiles exactly what is used.
        self.gradients = tf.function(self._gradients, jit_compile=config.xla, autograph=False)
        self.logits = self._logits_of(self.model)
        """Logits of images, from the weights as they are."""
        self.averaged_logits = self._logits_of(self._average.network) if self._average else None
        """The same from their moving average, where one is kept."""
        self.add = tf.function(lambda one, other: tf.nest.map_structure(tf.add, one, other), autograph=False)
        """Sum of what two calls of `gradients` returned."""
        self._apply = tf.function(self._averaged_update, autograph=False)
        self._finite = tf.function(_all_finite, autograph=False)

    def update(
        self, gradients: Any, statistics: Any, loss: Any, rate: float, stop: bool, save: bool = False
    ) -> StepResult:
        """Averages over the ranks and updates the weights; requests to stop and to save travel with the gradients."""
        asked = tf.constant([float(stop), float(save)])
        mean_loss, finite, asked = self._apply(gradients, statistics, loss, tf.constant(rate, tf.float32), asked)
        stopping, saving = asked.numpy() > 0
        return StepResult(float(mean_loss), bool(finite), bool(stopping), bool(saving))

    def average_statistics(self) -> None:
        """Gives every rank the mean of the ranks' moving statistics, before they are used or saved."""
        statistics = self._statistics()
        for name, mean in self._mean_statistics().items():
            statistics[name].assign(mean)

    def averaged_state(self) -> dict[str, Any]:
        """`state` with the mean of the ranks' moving statistics, while each rank keeps its own.

        Assigned within an epoch the means would change the result in its last bits, and when that happens is up to
        the clock.
        """
        return {**self.state(), **self._mean_statistics()}

    def state(self) -> dict[str, Any]:
        """Every variable by name, as a checkpoint keeps it."""
        velocity = {f"velocity/{name}": value for name, value in self.optimizer.velocity.items()}
        scale = {"loss-scale": self.optimizer.scale, "good-steps": self.optimizer.good_steps}
        average = self._average.state() if self._average else {}
        return {**self.model.weights, **self.model.statistics, **velocity, **scale, **average}

    def reinitialize(self) -> None:
        """Gives every variable the value that it had at the very start."""
        variables = self.state()
        for name, fresh in TrainState(self._config, self._ranks, self._device).state().items():
            variables[name].assign(fresh)

    def finite(self, state: Mapping[str, Any]) -> bool:
        """Whether every weight and statistic is a finite number; alike on every rank once statistics are averaged."""
        return bool(self._finite([state[name] for name in (*self.model.weights, *self.model.statistics)]))

    def _network(self) -> ResNeXt:
        config = self._config
        gpu = self._device == "gpu"
        dtype = _DTYPES[config.precision.mode]
        return build(config.model, config.seed, dtype, native_groups=gpu, onednn=not gpu and not config.xla)

    def _logits_of(self, network: ResNeXt) -> Any:
        return tf.function(
            lambda images: network(images, training=False)[0], jit_compile=self._config.xla, autograph=False
        )

    def _statistics(self) -> dict[str, Any]:
        """The moving statistics of the network and of its average, by the names that they have in `state`."""
        averaged = self._average.network.statistics if self._average else {}
        return {**self.model.statistics, **{PREFIX + name: value for name, value in averaged.items()}}

    def _mean_statistics(self) -> dict[str, Any]:
        statistics = self._statistics()
        return dict(zip(statistics, self._ranks.average(list(statistics.values())), strict=True))

    def _gradients(self, images: Any, labels: Any, mix: Any) -> tuple[Any, Any, Any]:
        """Gradients of the scaled loss, the moving statistics after this batch, and the mean cross entropy.

        images: [batch, size, size, 3] uint8; labels: [batch] int32; mix: [batch], MixUp's share of the image itself.
        """
        config, weights = self._config, self.model.weights
        even = config.label_smoothing / config.model.classes
        targets = tf.one_hot(labels, config.model.classes, on_value=1 - config.label_smoothing + even, off_value=even)
        if config.mixup:
            # Mixed before the normalisation, which is affine: the same as after it.
            images = _mixed(tf.cast(images, tf.float32), mix[:, None, None, None])
            targets = _mixed(targets, mix[:, None])
        with tf.GradientTape() as tape:
            logits, statistics = self.model(images, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
            decay = tf.add_n([tf.nn.l2_loss(weights[name]) for name in self.model.decayed_weights])
            scaled = (loss + config.optimizer.weight_decay * decay) * self.optimizer.scale
        return tape.gradient(scaled, list(weights.values())), statistics, loss

    def _averaged_update(self, gradients: Any, statistics: Any, loss: Any, rate: Any, asked: Any) -> Any:
        parts = self._config.gradient_accumulation
        if parts > 1:
            gradients, statistics, loss = tf.nest.map_structure(
                lambda sums: sums / parts, (gradients, statistics, loss)
            )
        # Averaged while still scaled: an overflow on one rank reaches all, so all skip the same step.
        compress = self._config.optimizer.gradient_compression == "fp16"
        *gradients, loss, asked = self._ranks.average([*gradients, loss, asked], compress=compress)
        finite = self.optimizer.apply(gradients, rate)
        for name, moved in statistics.items():
            variable = self.model.statistics[name]
            variable.assign(tf.where(finite, moved, variable))
        if self._average:
            self._average.update(finite)
        return loss, finite, asked


def _all_finite(values: list[Any]) -> Any:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def _mixed(values: Any, share: Any) -> Any:
    """Each value with the one at the same place from the end."""
    return values * share + tf.reverse(values, [0]) * (1 - share)
