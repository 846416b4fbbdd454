"""Training step: gradient accumulation, mixup, reset and averaged weights."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.config.validation import resolve
from resnext_trainer.model import layers
from resnext_trainer.model.ema import ExponentialMovingAverage
from resnext_trainer.model.resnext import MEAN, STD, ResNeXt
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.model.train_step import add, apply_gradients, forward_backward, is_finite
from resnext_trainer.runtime.distributed import SingleProcess


def step(batch, accumulation, **changed):
    config = resolve(
        {
            "model": {"architecture": "resnext17-8x4d", "classes": 10, "imageSize": 16},
            "batchSize": batch,
            "gradientAccumulation": accumulation,
            "precision": {"mode": "fp32"},
            "xla": False,
            **changed,
        }
    )
    return TrainState(config, "cpu")


def update(state, gradients):
    return apply_gradients(state, SingleProcess(), gradients, 0.1).wait()


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 16, 16, 3), np.uint8)
    return tf.constant(images), tf.constant(random.integers(0, 10, 12), tf.int32)


def test_gradient_accumulation_matches_full_batch(batch, monkeypatch):
    """Three accumulated batches give the update of the whole batch."""
    # Frozen, because batch statistics differ between the parts and the whole batch.
    with_statistics = layers.batch_norm
    monkeypatch.setattr(layers, "batch_norm", lambda *given, training: with_statistics(*given, training=False))  # noqa: ARG005
    images, labels = batch
    whole, parts = step(12, 1), step(4, 3)
    for _ in range(2):
        outcome = update(whole, forward_backward(whole, images, labels, tf.ones(1)))
        gradients = [
            forward_backward(parts, images[first : first + 4], labels[first : first + 4], tf.ones(1))
            for first in (0, 4, 8)
        ]
        again = update(parts, functools.reduce(add, gradients))
        assert again.loss == pytest.approx(outcome.loss, rel=1e-5)
    for name, variable in whole.variables().items():
        np.testing.assert_allclose(parts.variables()[name], variable, rtol=1e-4, atol=1e-6, err_msg=name)


def test_mixup_mixes_images_and_targets(batch):
    """Mixup follows normalization and mixes smoothed labels of reversed partners, as in the published recipe."""
    images, labels = batch
    share = np.linspace(0, 1, 12, dtype=np.float32)
    mixing = step(12, 1, mixup=0.2, labelSmoothing=0.1)
    loss = forward_backward(mixing, images, labels, tf.constant(share)).loss

    def mixed(values):
        broad = share.reshape(-1, *(1,) * (values.ndim - 1))
        return values * broad + values[::-1] * (1 - broad)

    normal = mixed((images.numpy() - MEAN) / STD)
    logits = mixing.model(tf.constant(normal * STD + MEAN, tf.float32), training=True)[0].numpy()
    targets = mixed(np.eye(10)[labels.numpy()] * 0.9 + 0.1 / 10)
    logarithms = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(loss) == pytest.approx(-(targets * logarithms).sum(axis=1).mean(), rel=1e-5)


def test_update_under_xla_matches_graph(batch):
    """XLA compiles the whole update; both versions change nothing if a gradient is not finite."""
    images, labels = batch
    plain, by_xla = step(12, 1, emaDecay=0.9), step(12, 1, emaDecay=0.9, xla=True)
    gradients = forward_backward(plain, images, labels, tf.ones(1))
    lost = gradients._replace(weights=[*gradients.weights[:-1], gradients.weights[-1] * np.nan])
    for given in (gradients, lost, gradients):
        before = {name: variable.numpy() for name, variable in by_xla.variables().items()}
        results = update(plain, given), update(by_xla, given)
        assert [result.finite for result in results] == [given is gradients] * 2
        assert results[0].loss == results[1].loss == float(gradients.loss)
        for name, variable in plain.variables().items():
            np.testing.assert_allclose(by_xla.variables()[name], variable, rtol=1e-5, atol=1e-6, err_msg=name)
            if given is lost:
                assert np.array_equal(by_xla.variables()[name], before[name]), name
            elif name.startswith("velocity/"):
                assert not np.array_equal(by_xla.variables()[name], before[name]), name


def test_reset_restores_initial_state(batch):
    """Every variable is reset to its initial value: weights, statistics, velocities, loss scale and averages."""
    trained = step(12, 1, emaDecay=0.9)
    before = {name: variable.numpy() for name, variable in trained.variables().items()}
    images, labels = batch
    update(trained, forward_backward(trained, images, labels, tf.ones(1)))
    trained.reset()
    for name, variable in trained.variables().items():
        assert np.array_equal(variable, before[name]), name


def test_finite_detects_nan_in_statistics():
    """One NaN in any variable is detected."""
    damaged = step(4, 1)
    assert is_finite(damaged, damaged.variables())
    damaged.model.statistics["stem/mean"].assign(tf.fill([32], np.nan))
    assert not is_finite(damaged, damaged.variables())


class Variables(ResNeXt):
    """The part of a model that is averaged."""

    def __init__(self):
        self.weights, self.statistics = {"kernel": tf.Variable([1.0, -2.0])}, {"mean": tf.Variable(0.5)}


def test_ema_matches_tensorflow_moving_average():
    """tf.train.ExponentialMovingAverage is the reference; a skipped step changes nothing."""
    model = Variables()
    average = ExponentialMovingAverage(model, Variables(), 0.5)
    now, updates = model.weights["kernel"], tf.Variable(0.0)
    theirs = tf.train.ExponentialMovingAverage(0.5, num_updates=updates)
    theirs.apply([now])  # starts with the value itself
    random = np.random.default_rng(0)
    for _ in range(20):
        now.assign(random.standard_normal(2))
        average.update(tf.constant(True))
        theirs.apply([now])
        updates.assign_add(1.0)
        np.testing.assert_allclose(average.network.weights["kernel"], theirs.average(now), rtol=1e-5)
    before = average.network.weights["kernel"].numpy()
    average.update(tf.constant(False))  # a skipped step does not count
    assert np.array_equal(average.network.weights["kernel"], before)
