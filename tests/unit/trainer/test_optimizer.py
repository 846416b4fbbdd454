"""SGD with momentum, loss scaling and learning rate schedules."""

import math

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.config.models import Optimizer
from resnext_trainer.model.optimizer import GROWTH_STEPS, INITIAL_SCALE, MIN_SCALE, SGDMomentum
from resnext_trainer.training.schedule import learning_rate


def test_sgd_momentum_50_steps_match_formula():
    """After fifty steps, the weights equal those of the textbook formula in float64."""
    random = np.random.default_rng(0)
    w, v = random.standard_normal(7), np.zeros(7)
    weight = tf.Variable(w, dtype=tf.float32)
    optimizer = SGDMomentum({"w": weight}, momentum=0.875)
    for step in range(50):
        rate, gradient = 0.1 * (1 + math.cos(step / 50)), random.standard_normal(7)
        v = 0.875 * v + gradient
        w = w - rate * v
        optimizer.apply([tf.constant(gradient, tf.float32)], tf.constant(rate, tf.float32))
    np.testing.assert_allclose(weight, w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("branch", [False, True], ids=["masked", "branch"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_loss_scale_overflow_skips_step_and_halves(branch, xla, bad):
    """An overflow changes no weight and no velocity, and halves the dynamic loss scale."""
    weight = tf.Variable([1.0, 2.0])
    optimizer = SGDMomentum({"w": weight}, momentum=0.9, loss_scale="dynamic", branch=branch)
    apply = tf.function(optimizer.apply, jit_compile=xla)
    assert apply([tf.constant([3.0, 3.0]) * INITIAL_SCALE], tf.constant(0.1))
    weights, velocities = weight.numpy(), optimizer.velocity["w"].numpy()
    np.testing.assert_allclose(weights, [0.7, 1.7], rtol=1e-6)
    assert not apply([tf.constant([1.0, bad])], tf.constant(0.1))
    assert np.array_equal(weight, weights)
    assert np.array_equal(optimizer.velocity["w"], velocities)
    assert float(optimizer.scale) == INITIAL_SCALE / 2
    assert apply([tf.constant([1.0, 1.0]) * optimizer.scale], tf.constant(0.1))
    np.testing.assert_allclose(weight, weights - 0.1 * (0.9 * 3 + 1), rtol=1e-6)


def test_loss_scale_static_skips_overflow_unchanged():
    """A static loss scale never changes, and an overflow is skipped."""
    weight = tf.Variable([1.0])
    optimizer = SGDMomentum({"w": weight}, momentum=0.9, loss_scale=128.0)
    assert not optimizer.apply([tf.constant([math.nan])], 0.1)
    assert (float(weight[0]), float(optimizer.scale)) == (1.0, 128.0)
    assert optimizer.apply([tf.constant([128.0])], 0.1)
    assert float(weight[0]) == pytest.approx(0.9)
    optimizer.good_steps.assign(2 * GROWTH_STEPS)
    optimizer.apply([tf.constant([1.0])], 0.1)
    assert float(optimizer.scale) == 128.0


def test_loss_scale_overflows_stop_at_floor():
    """Overflows halve the dynamic loss scale down to 1, and the next finite step is applied."""
    weight = tf.Variable([1.0])
    optimizer = SGDMomentum({"w": weight}, momentum=0.9, loss_scale="dynamic")
    optimizer.scale.assign(3.0)
    scales = []
    for _ in range(4):
        assert not optimizer.apply([tf.constant([math.inf])], 0.1)
        scales.append(float(optimizer.scale))
    assert scales == [1.5, MIN_SCALE, MIN_SCALE, MIN_SCALE]
    assert optimizer.apply([tf.constant([1.0])], 0.1)
    assert float(weight[0]) == pytest.approx(0.9)


def test_loss_scale_doubles_after_growth_steps():
    """The dynamic loss scale doubles after GROWTH_STEPS finite steps."""
    optimizer = SGDMomentum({"w": tf.Variable([1.0])}, momentum=0.9, loss_scale="dynamic")
    optimizer.good_steps.assign(GROWTH_STEPS - 1)
    optimizer.apply([tf.constant([1.0])], 0.1)
    assert float(optimizer.scale) == 2 * INITIAL_SCALE
    assert float(optimizer.good_steps) == 0


@pytest.mark.parametrize(
    ("global_batch", "done", "rate"),
    [
        (256, 0, 0.256),  # too small to need a warm-up
        (256, 45, 0.128),
        (256, 90, 0.0),
        (2048, 0, 0.0),
        (2048, 2.5, 1.024),
        (2048, 5, 2.048 * 0.5 * (1 + math.cos(math.pi * 5 / 90))),  # the cosine starts at the first step
        (2048, 45, 1.024),
    ],
)
def test_learning_rate_cosine_matches_recipe(global_batch, done, rate):
    """Linear scaling with the global batch, warm-up and cosine decay as published."""
    assert learning_rate(Optimizer(), global_batch, 90, done) == pytest.approx(rate)


@pytest.mark.parametrize(("done", "rate"), [(0, 0.256), (29.9, 0.256), (30, 0.0256), (60, 0.00256), (85, 0.000256)])
def test_learning_rate_step_schedule_divides_by_10(done, rate):
    """The step schedule divides the learning rate by ten at each of stepEpochs."""
    assert learning_rate(Optimizer(schedule="step"), 256, 90, done) == pytest.approx(rate)


def test_learning_rate_warmup_threshold_configurable():
    """warmupMinGlobalBatch is the global batch from which on there is a warm-up."""
    assert learning_rate(Optimizer(warmup_min_global_batch=256), 256, 90, 2.5) == pytest.approx(0.128)
