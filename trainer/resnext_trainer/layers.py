"""Convolution in groups, and batch norm: the two layers that TensorFlow does not serve well as they come."""

from typing import Any

import tensorflow as tf

# Dense blocks of at least 16 channels, eight at most, in place of groups: 21.5 ms against 30 ms for 32 single groups,
# forward and backward, on two CPU cores (batch 8, 128 channels, 56x56). Graph mode has no gradient of grouped
# convolutions on CPUs at all.
_BLOCKS = 8
_BLOCK_CHANNELS = 16

BATCH_NORM_DECAY = 0.9
BATCH_NORM_EPSILON = 1e-5


def convolution(
    images: Any, kernel: Any, stride: int, groups: int = 1, *, native_groups: bool = True, symmetric: bool = False
) -> Any:
    """Convolution, padded SAME or as much before as after; the kernel is [height, width, in / groups, out]."""
    padding: Any = "SAME"
    if symmetric:
        edge = [kernel.shape[0] // 2] * 2
        padding = [[0, 0], edge, edge, [0, 0]]
    if groups == 1 or native_groups:
        return tf.nn.conv2d(images, kernel, strides=stride, padding=padding)
    most = max(1, min(groups, _BLOCKS, images.shape[-1] // _BLOCK_CHANNELS))
    blocks = max(number for number in range(1, most + 1) if groups % number == 0)
    outputs = [
        tf.nn.conv2d(part, dense, strides=stride, padding=padding)
        for part, dense in zip(
            tf.split(images, blocks, axis=-1), tf.unstack(block_diagonal(kernel, groups, blocks)), strict=True
        )
    ]
    return tf.concat(outputs, axis=-1)


def padded(images: Any, edge: int) -> Any:
    """Zeros around each image."""
    return tf.pad(images, [[0, 0], [edge, edge], [edge, edge], [0, 0]])


def block_diagonal(kernel: Any, groups: int, blocks: int) -> Any:
    """The grouped kernel as `blocks` dense kernels, [blocks, height, width, in, out], zero between groups."""
    height, width, group_in, channels_out = kernel.shape
    inner, group_out = groups // blocks, channels_out // groups
    grouped = tf.reshape(kernel, [height, width, group_in, blocks, inner, group_out])
    spread = tf.einsum("hwibko,jk->bhwjiko", grouped, tf.eye(inner, dtype=kernel.dtype))
    return tf.reshape(spread, [blocks, height, width, inner * group_in, inner * group_out])


def batch_norm(images: Any, scale: Any, offset: Any, mean: Any, variance: Any, *, training: bool) -> tuple[Any, Any]:
    """Normalised images, and the moving (mean, variance) after this batch. One fused operation; Keras 3's is not."""
    if not training:
        outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
            images, scale, offset, mean, variance, epsilon=BATCH_NORM_EPSILON, is_training=False
        )
        return outputs, (mean, variance)
    outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
        images, scale, offset, epsilon=BATCH_NORM_EPSILON, is_training=True
    )
    moved = tuple(
        BATCH_NORM_DECAY * old + (1 - BATCH_NORM_DECAY) * new
        for old, new in ((mean, batch_mean), (variance, batch_variance))
    )
    return outputs, moved
