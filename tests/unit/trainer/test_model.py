"""ResNeXt model: parameter counts, initialization, grouped convolutions, oneDNN kernels and weight decay."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.config.validation import resolve
from resnext_trainer.model import layers
from resnext_trainer.model.architectures import ARCHITECTURES, ArchitectureSpec, architecture_spec
from resnext_trainer.model.resnext import ResNeXt


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("resnext50-32x4d", 25_028_904),
        ("resnext101-32x4d", 44_177_704),
        ("resnext101-32x8d", 88_791_336),
        ("resnext101-64x4d", 83_455_272),
        ("se-resnext101-32x4d", 48_955_416),  # from timm; the others are from torchvision
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
    ],
)
def test_resnext_parameter_count_matches_published(architecture, weights):
    """The parameter counts are those of torchvision and timm."""
    assert ResNeXt(ARCHITECTURES[architecture], classes=1000).count() == weights


def test_architecture_spec_custom_fields_applied():
    """model.custom can describe a built-in architecture."""
    custom = {"blocks": [1, 2, 2], "groups": 8, "width": 4, "channels": 64, "stem": 32, "smallImages": True}
    config = resolve({"model": {"architecture": "custom", "custom": custom}})
    assert architecture_spec(config.model) == ARCHITECTURES["resnext17-8x4d"]


@pytest.mark.parametrize(("groups", "width"), [(12, 16), (9, 16), (5, 10), (3, 64)])
def test_convolution_merges_any_number_of_groups(groups, width):
    """Dense blocks of merged groups compute the grouped convolution for any number of groups."""
    images, kernel = tf.ones([1, 5, 5, groups * width]), tf.ones([3, 3, width, groups * width])
    ours = layers.convolution(images, kernel, 1, groups, native_groups=False)
    np.testing.assert_allclose(ours, layers.convolution(images, kernel, 1, groups), rtol=1e-6)


@pytest.mark.parametrize("fan_out", [False, True], ids=["in", "out"])
def test_init_truncated_normal_with_fan_variance(fan_out):
    """Initial weights are a normal distribution truncated at two deviations, with variance 2 / fan."""
    net = ResNeXt(ArchitectureSpec((1,), groups=32, width=4), classes=10, fan_out=fan_out)
    kernel = net.weights["stage1/block1/grouped/kernel"].numpy()
    assert kernel.shape == (3, 3, 4, 128)
    expected = (2 / (9 * 4)) ** 0.5  # each group has four input and four output channels
    assert np.std(kernel) == pytest.approx(expected, rel=0.02)
    assert np.abs(kernel).max() <= 2 * expected / 0.8796
    wide = net.weights["stage1/block1/expand/kernel"].numpy()
    assert np.std(wide) == pytest.approx((2 / (256 if fan_out else 128)) ** 0.5, rel=0.02)


def test_zero_gamma_sets_last_scale_of_each_block():
    """With zero_gamma the last scale of each block is zero, so that a block is its shortcut."""
    net = ResNeXt(ARCHITECTURES["resnext17-8x4d"], classes=10, zero_gamma=True)
    zero = {name for name, weight in net.weights.items() if name.endswith("/scale") and not np.any(weight)}
    assert zero == {
        f"{name}/expand/scale"
        for name in ("stage1/block1", "stage2/block1", "stage2/block2", "stage3/block1", "stage3/block2")
    }


def normal(*shape):
    return tf.constant(np.random.default_rng(sum(shape)).standard_normal(shape), tf.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (128, 32), (64, 4), (8, 8)])
def test_convolution_dense_blocks_match_grouped(channels, groups, stride):
    """Dense blocks return the result of one convolution per group."""
    random = np.random.default_rng(0)
    images = tf.constant(random.standard_normal((2, 9, 9, channels)), tf.float32)
    kernel = tf.constant(random.standard_normal((3, 3, channels // groups, 2 * channels)), tf.float32)
    one_by_one = [
        tf.nn.conv2d(part, weights, stride, "SAME")
        for part, weights in zip(tf.split(images, groups, -1), tf.split(kernel, groups, -1), strict=True)
    ]
    ours = layers.convolution(images, kernel, stride, groups, native_groups=False)
    np.testing.assert_allclose(ours, tf.concat(one_by_one, -1), atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True], ids=["same", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "channels", "groups"), [(3, 32, 8), (3, 128, 32), (3, 64, 4), (3, 8, 8), (3, 36, 9), (1, 24, 1)]
)
def test_convolution_onednn_matches_dense_blocks(size, channels, groups, stride, symmetric):
    """oneDNN's convolution has the outputs and gradients of the dense blocks."""
    images, kernel = normal(2, 9, 9, channels), normal(size, size, channels // groups, 2 * channels)
    found = []
    for onednn in (True, False):

        @tf.function
        def graph(onednn=onednn):
            with tf.GradientTape() as tape:
                tape.watch([images, kernel])
                outputs = layers.convolution(
                    images, kernel, stride, groups, native_groups=False, onednn=onednn, symmetric=symmetric
                )
                loss = tf.reduce_sum(tf.sin(outputs))
            return outputs, *tape.gradient(loss, [images, kernel])

        found.append(graph())
    for ours, plain in zip(*found, strict=True):
        assert ours.shape == plain.shape
        np.testing.assert_allclose(ours, plain, atol=1e-4)


def test_batch_norm_onednn_matches_fused():
    """oneDNN's batch norm has the outputs, statistics and gradients of the fused one."""
    images, scale, offset = normal(4, 5, 6, 24) * 3 + 5, normal(24), normal(24)
    mean, variance = tf.zeros(24), tf.ones(24)
    found = []
    for onednn in (True, False):
        with tf.GradientTape() as tape:
            tape.watch([images, scale, offset])
            outputs, moved = layers.batch_norm(images, scale, offset, mean, variance, training=True, onednn=onednn)
            loss = tf.reduce_sum(tf.sin(outputs))
        found.append([outputs, *moved, *tape.gradient(loss, [images, scale, offset])])
    for ours, fused in zip(*found, strict=True):
        np.testing.assert_allclose(ours, fused, rtol=1e-3, atol=1e-4)


@tf.function(jit_compile=True)
def compiled_batch_norm(images, scale, offset, upstream):
    with tf.GradientTape() as tape:
        tape.watch([images, scale, offset])
        outputs, moved = layers.batch_norm(images, scale, offset, tf.zeros(8), tf.ones(8), training=True, xla=True)
    return [outputs, *moved, *tape.gradient(outputs, [images, scale, offset], upstream)]


TOLERANCE = {tf.float32: 1e-4, tf.float16: 8e-3, tf.bfloat16: 6e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("ratio", [0, 1, 1000])
def test_batch_norm_xla_matches_float64(ratio, dtype):
    """All values match up to a mean of 1,000 standard deviations, where E[x^2] - E[x]^2 fails."""
    random = np.random.default_rng(ratio)
    pixels = tf.cast(random.normal(3.0 * ratio, 3.0, (4, 9, 9, 8)), dtype)
    scale, offset, upstream = normal(8), normal(8), tf.cast(normal(4, 9, 9, 8), dtype)
    found = compiled_batch_norm(pixels, scale, offset, upstream)
    x, gamma, dy = (np.asarray(tf.cast(each, tf.float64)) for each in (pixels, scale, upstream))
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    unit = (x - mean) / np.sqrt(variance + layers.BATCH_NORM_EPSILON)
    of_offset, of_scale = dy.sum((0, 1, 2)), (dy * unit).sum((0, 1, 2))
    count = x.size / 8
    of_images = (dy - of_offset / count - unit * of_scale / count) * gamma / np.sqrt(variance)
    moved = [0.1 * mean, 0.9 + 0.1 * variance * count / (count - 1)]
    expected = [unit * gamma + offset, *moved, of_images, of_scale, of_offset]
    for ours, exact in zip(found, expected, strict=True):
        tolerance = TOLERANCE[ours.dtype]
        np.testing.assert_allclose(
            tf.cast(ours, tf.float64), exact, rtol=tolerance, atol=tolerance * np.abs(exact).max()
        )


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.3, 1e10])
def test_batch_norm_xla_constant_channel_is_finite(value):
    """A constant channel has variance zero, and its outputs are the offset."""
    images, upstream = tf.fill([4, 9, 9, 8], value), normal(4, 9, 9, 8)
    found = compiled_batch_norm(images, tf.ones(8), normal(8), upstream)
    assert all(np.isfinite(each).all() for each in found)
    np.testing.assert_allclose(found[2], np.full(8, 0.9), rtol=1e-6)
    np.testing.assert_allclose(found[0], np.broadcast_to(normal(8), (4, 9, 9, 8)), atol=1e-6)


def test_train_without_onednn_has_gradients():
    """Without oneDNN, TensorFlow has no gradient of grouped convolutions; it reads the variable only once."""
    code = (
        "import tensorflow as tf; from resnext_trainer.model.resnext import ResNeXt\n"
        "from resnext_trainer.model.architectures import ARCHITECTURES\n"
        "net = ResNeXt(ARCHITECTURES['resnext17-8x4d'], 10, onednn=True)\n"
        "@tf.function\n"
        "def loss():\n"
        "    return tf.gradients(net(tf.zeros([2, 32, 32, 3]), training=True)[0], list(net.weights.values()))\n"
        "loss()"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_weight_decay_excludes_batch_norm_only():
    """Weight decay applies to all weights except the scales and offsets of batch norm."""
    model = ResNeXt(ARCHITECTURES["resnext17-8x4d"], classes=10)
    spared = set(model.weights) - set(model.decayed_weights)
    assert {name.rsplit("/")[-1] for name in spared} == {"scale", "offset"}
    assert "classifier/bias" in model.decayed_weights


def test_init_weights_depend_on_seed():
    """The same seed gives the same weights, another seed gives others."""
    first, again, other = (
        ResNeXt(ARCHITECTURES["resnext17-8x4d"], 10, seed).weights["stem/kernel"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.std(other) == pytest.approx((2 / 27) ** 0.5, rel=0.1)
