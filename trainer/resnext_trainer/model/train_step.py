"""Training step: gradients in one compiled function, then all-reduce over the ranks and the update.

Gradients and updated batch norm statistics are averaged over accumulated batches as well as ranks. The update equals
that of a larger batch whose parts batch norm normalizes separately.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from resnext_trainer.model.graphs import compiled, traced
from resnext_trainer.model.resnext import ResNeXt
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import ALLREDUCE


class Gradients(NamedTuple):
    """Gradients of a batch, or the sum over several batches."""

    weights: list[Any]
    """Gradients of the scaled loss, in the order of the weights."""
    statistics: dict[str, Any]
    """Moving statistics of batch norm after this batch."""
    loss: Any
    """Mean cross entropy."""


class RankRequests(NamedTuple):
    """Requests of this rank to all ranks; they are part of the all-reduce of the gradients."""

    stop: bool = False
    save: bool = False


_NOTHING = RankRequests()


class StepResult(NamedTuple):
    """Result of a step; the same on every rank."""

    loss: float
    """Mean cross entropy over the global batch."""
    finite: bool
    """Whether the weights were updated."""
    stop: bool
    """Whether any rank has a stop request."""
    save: bool
    """Whether a checkpoint is due on any rank."""


def train_step(
    state: TrainState,
    communicator: Communicator,
    batches: Iterator[tuple[Any, Any]],
    rate: float,
    *,
    mixup_weight: Callable[[int], Any],
    requests: Callable[[], RankRequests],
    phase: Callable[[Literal["data_wait", "compute", "allreduce"]], AbstractContextManager[None]],
) -> StepResult:
    """One update with the mean gradients of `gradientAccumulation` batches on every rank.

    mixup_weight: returns the mixup weights of the batch with this number. requests: called right before the all-reduce.
    phase: measures the time of each part of the step.
    """
    total: Gradients | None = None
    for part in range(state.config.gradient_accumulation):
        with phase("data_wait"):
            images, labels = next(batches)
        # Waiting for the loss takes less than 1 % of a step on a GPU, and separates computation from communication.
        with phase("compute"):
            gradients = forward_backward(state, images, labels, mixup_weight(part))
            gradients.loss.numpy()
            total = gradients if total is None else add(total, gradients)
    assert total, "a step has at least one batch"
    with phase(ALLREDUCE):
        return apply_gradients(state, communicator, total, rate, requests())


@compiled
def forward_backward(state: TrainState, images: Any, labels: Any, mix: Any) -> Gradients:
    """Gradients of one batch, without side effects.

    images: [batch, size, size, 3] uint8; labels: [batch] int32; mix: [batch], mixup weight of the image itself.
    """
    config, model, weights = state.config, state.model, state.model.weights
    even = config.label_smoothing / config.model.classes
    targets = tf.one_hot(labels, config.model.classes, on_value=1 - config.label_smoothing + even, off_value=even)
    if config.mixup:
        # Mixing before the normalization is equivalent, because the normalization is affine.
        images = _mixed(tf.cast(images, tf.float32), mix[:, None, None, None])
        targets = _mixed(targets, mix[:, None])
    with tf.GradientTape() as tape:
        logits, statistics = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        decay = tf.add_n([tf.nn.l2_loss(weights[name]) for name in model.decayed_weights])
        scaled = (loss + config.optimizer.weight_decay * decay) * state.optimizer.scale
    return Gradients(tape.gradient(scaled, list(weights.values())), statistics, loss)


@tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow ships no types
def add(one: Gradients, other: Gradients) -> Gradients:
    """The sum of two batches' gradients."""
    result: Gradients = tf.nest.map_structure(tf.add, one, other)
    return result


def apply_gradients(
    state: TrainState, communicator: Communicator, gradients: Gradients, rate: float, requests: RankRequests = _NOTHING
) -> StepResult:
    """Averages gradients over the ranks and updates the weights."""
    asked = tf.constant([float(requests.stop), float(requests.save)])
    loss, finite, asked = _average_and_update(state, communicator, gradients, tf.constant(rate, tf.float32), asked)
    stop, save = asked.numpy() > 0
    return StepResult(float(loss), bool(finite), bool(stop), bool(save))


@traced
def _average_and_update(state: TrainState, communicator: Communicator, summed: Gradients, rate: Any, asked: Any) -> Any:
    gradients, statistics, loss = summed
    parts = state.config.gradient_accumulation
    if parts > 1:
        gradients, statistics, loss = tf.nest.map_structure(lambda sums: sums / parts, (gradients, statistics, loss))
    # Averaged while still scaled: an overflow on one rank reaches every rank, so all ranks skip the same step.
    compress = state.config.optimizer.gradient_compression == "fp16"
    *gradients, loss, asked = communicator.average([*gradients, loss, asked], compress=compress)
    finite = state.optimizer.apply(gradients, rate)
    for name, moved in statistics.items():
        variable = state.model.statistics[name]
        variable.assign(tf.where(finite, moved, variable))
    if state.average:
        state.average.update(finite)
    return loss, finite, asked


@compiled
def eval_step(network: ResNeXt, images: Any) -> Any:
    """Logits of images [batch, size, size, 3] in uint8."""
    return network(images, training=False)[0]


def average_statistics(state: TrainState, communicator: Communicator) -> None:
    """Averages the moving statistics over the ranks, before they are used or saved."""
    statistics = state.statistics()
    for name, mean in _mean_statistics(state, communicator).items():
        statistics[name].assign(mean)


def averaged_variables(state: TrainState, communicator: Communicator) -> dict[str, Any]:
    """The variables with moving statistics averaged over the ranks; the state is not changed.

    Assigning the averages within an epoch would change the result slightly, at a time that depends on the clock.
    """
    return {**state.variables(), **_mean_statistics(state, communicator)}


def is_finite(state: TrainState, variables: Mapping[str, Any]) -> bool:
    """Whether all weights and statistics are finite; the same on every rank after averaging the statistics."""
    return bool(_all_finite([variables[name] for name in (*state.model.weights, *state.model.statistics)]))


def _mean_statistics(state: TrainState, communicator: Communicator) -> dict[str, Any]:
    statistics = state.statistics()
    return dict(zip(statistics, communicator.average(list(statistics.values())), strict=True))


@tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow ships no types
def _all_finite(values: list[Any]) -> Any:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def _mixed(values: Any, share: Any) -> Any:
    """Mixes each value with the value at the mirrored position in the batch."""
    return values * share + tf.reverse(values, [0]) * (1 - share)
