"""Training step: gradients in one compiled function, all-reduce over the ranks, and the update in another one.

Gradients and updated batch norm statistics are averaged over accumulated batches as well as ranks. The update equals
that of a larger batch whose parts batch norm normalizes separately.

The functions only start work on the device. `PendingResult` waits for it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from resnext_trainer.model.graphs import compiled, traced
from resnext_trainer.model.resnext import ResNeXt
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime.background import BackgroundThreads
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.heartbeat import ALLREDUCE


class Gradients(NamedTuple):
    """Gradients of a batch, the sum over several batches, or the mean over all batches and ranks."""

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
    loss_scale: float = 1.0
    """Loss scale of the next step."""


_reader: BackgroundThreads[Any] = BackgroundThreads("step-result")


class PendingResult:
    """Result of a step that the device may still be computing."""

    def __init__(self, values: Any) -> None:
        """values: float32 [5] on the device, in the order of `StepResult`."""
        # In a thread: TensorFlow's copy from a GPU waits for all work that is queued on the GPU when the copy begins.
        # Begun now, it does not wait for the next step, and the main thread can queue that step in the meantime.
        # On a CPU the values are already there, and a thread would only compete for the GIL.
        on_cpu = values.device.endswith("CPU:0")
        self._read: Callable[[], Any] = values.numpy if on_cpu else _reader.submit(values.numpy).result

    def wait(self) -> StepResult:
        """The result, after the step is complete."""
        loss, finite, stop, save, loss_scale = self._read().tolist()
        return StepResult(loss, finite > 0, stop > 0, save > 0, loss_scale)


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
    state: TrainState,
    communicator: Communicator,
    gradients: Gradients,
    rate: float,
    requests: RankRequests = _NOTHING,
    phase: Callable[[Literal["allreduce", "optimizer"]], AbstractContextManager[None]] = lambda _name: nullcontext(),
    synchronize: bool = False,
) -> PendingResult:
    """Averages the gradients over the ranks and updates the weights.

    If a gradient is not finite, the device skips the update. phase: measures the time of each part. synchronize: wait
    for the device after each part. Each part ends when its tensors are freed, if the caller keeps no reference.
    """
    with phase(ALLREDUCE):
        means, asked = _all_reduce(state, communicator, gradients, tf.constant(requests, tf.float32))
        del gradients
        if synchronize:
            asked.numpy()
    with phase("optimizer"):
        pending = PendingResult(_update(state, means, asked, tf.constant(rate, tf.float32)))
        del means, asked
        if synchronize:
            pending.wait()
    return pending


@traced
def _all_reduce(state: TrainState, communicator: Communicator, summed: Gradients, requests: Any) -> tuple[Any, Any]:
    """The mean gradients of all batches on all ranks, and the fraction of the ranks with each request."""
    parts = state.config.gradient_accumulation
    gradients, statistics, loss = summed
    if parts > 1:
        gradients, statistics, loss = tf.nest.map_structure(lambda sums: sums / parts, (gradients, statistics, loss))
    # Averaged while still scaled: an overflow on one rank reaches every rank, so all ranks skip the same step.
    compress = state.config.optimizer.gradient_compression == "fp16"
    *gradients, loss, requests = communicator.average([*gradients, loss, requests], compress=compress)
    return Gradients(gradients, statistics, loss), requests


@compiled
def _update(state: TrainState, gradients: Gradients, requests: Any, rate: Any) -> Any:
    finite = state.optimizer.apply(gradients.weights, rate)
    for name, moved in gradients.statistics.items():
        variable = state.model.statistics[name]
        variable.assign(tf.where(finite, moved, variable))
    if state.average:
        state.average.update(finite)
    result = [gradients.loss, tf.cast(finite, tf.float32), *tf.unstack(requests), state.optimizer.scale]
    return tf.stack(result)


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
