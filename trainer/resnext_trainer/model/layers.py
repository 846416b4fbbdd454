"""Grouped convolution and batch norm, with workarounds for slow or missing kernels of TensorFlow."""

import functools
from typing import Any

import tensorflow as tf

# On devices without grouped convolution: at most eight dense blocks of at least 16 channels instead of groups.
# 21.5 ms instead of 30 ms for 32 single groups, forward and backward, on two CPU cores (batch 8, 128 channels, 56x56).
_BLOCKS = 8
_BLOCK_CHANNELS = 16

# oneDNN uses vectors of 8 channels, so groups with fewer channels are merged to 8. 24 ms instead of 29 ms for groups of
# four (37 ms merged to 16, 28 ms as dense blocks) on one core (batch 4, 128 channels, 56x56). Groups of 8 to 32
# channels take a quarter to a half of the time of dense blocks.
_GROUP_CHANNELS = 8

BATCH_NORM_DECAY = 0.9
BATCH_NORM_EPSILON = 1e-5


def convolution(
    images: Any,
    kernel: Any,
    stride: int,
    groups: int = 1,
    *,
    native_groups: bool = True,
    onednn: bool = False,
    symmetric: bool = False,
) -> Any:
    """Convolution with SAME or symmetric padding. kernel: [height, width, in / groups, out]."""
    if onednn and kernel.shape[:2] == (1, 1):
        # A slice of the whole tensor is free in the forward pass, but a copy in backward: 10 % of resnext17-8x4d.
        return _conv1x1(images[:, ::stride, ::stride] if stride > 1 else images, kernel)
    padding: Any = "SAME"
    if symmetric and stride > 1:  # at stride 1, SAME is symmetric
        edge = [kernel.shape[0] // 2] * 2
        padding = [[0, 0], edge, edge, [0, 0]]
    if onednn and groups > 1 and _grouped_has_gradient(images.dtype):
        kernel, native_groups = _merge_groups(kernel, groups), True
        if padding != "SAME":  # oneDNN has no gradient of a grouped convolution with explicit padding
            images, padding = pad_spatial(images, kernel.shape[0] // 2), "VALID"
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


def _conv1x1(images: Any, kernel: Any) -> Any:
    """1x1 convolution as a matrix multiplication, whose gradients are faster in oneDNN: 4 % of a step."""
    channels_in, channels_out = kernel.shape[2:]
    product = tf.matmul(tf.reshape(images, [-1, channels_in]), kernel[0, 0])
    return tf.reshape(product, [tf.shape(images)[0], *images.shape[1:3], channels_out])


@functools.cache
def _grouped_has_gradient(dtype: tf.DType) -> bool:
    """Whether TensorFlow has a gradient for grouped convolutions on the CPU, which requires oneDNN."""
    with tf.init_scope(), tf.device("/CPU:0"):
        images, kernel = tf.ones([1, 4, 4, 16], dtype), tf.ones([1, 1, 8, 16], dtype)
        # In a graph: TensorFlow selects oneDNN kernels when it rewrites a graph.
        gradient = tf.function(lambda: tf.gradients(tf.nn.conv2d(images, kernel, 1, "SAME"), [images, kernel]))
        try:
            gradient()
        except tf.errors.OpError:
            return False
    return True


def _merge_groups(kernel: Any, groups: int) -> Any:
    """Merges groups of a grouped kernel to the width of a vector, with zeros between the merged groups."""
    channels, group_out = kernel.shape[2], kernel.shape[3] // groups
    together = max(1, _GROUP_CHANNELS // channels)
    if together == 1 or groups % together or group_out * together < _GROUP_CHANNELS:
        return kernel
    blocks = block_diagonal(kernel, groups, groups // together)
    height, width, inner, _ = blocks.shape[1:]
    return tf.reshape(tf.transpose(blocks, [1, 2, 3, 0, 4]), [height, width, inner, kernel.shape[3]])


def pad_spatial(images: Any, edge: int) -> Any:
    """Zero-pads height and width."""
    return tf.pad(images, [[0, 0], [edge, edge], [edge, edge], [0, 0]])


def block_diagonal(kernel: Any, groups: int, blocks: int) -> Any:
    """Converts a grouped kernel to block-diagonal dense kernels, [blocks, height, width, in, out]."""
    height, width, group_in, channels_out = kernel.shape
    inner, group_out = groups // blocks, channels_out // groups
    grouped = tf.reshape(kernel, [height, width, group_in, blocks, inner, group_out])
    spread = tf.einsum("hwibko,jk->bhwjiko", grouped, tf.eye(inner, dtype=kernel.dtype))
    return tf.reshape(spread, [blocks, height, width, inner * group_in, inner * group_out])


def batch_norm(
    images: Any,
    scale: Any,
    offset: Any,
    mean: Any,
    variance: Any,
    onednn: bool = False,
    xla: bool = False,
    *,
    training: bool,
) -> tuple[Any, Any]:
    """Normalized images, and the moving (mean, variance) after this batch. Fused, unlike the layer of Keras 3.

    onednn, xla: use operations that are fast in oneDNN, or precise when compiled by XLA.
    """
    if not training:
        outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
            images, scale, offset, mean, variance, epsilon=BATCH_NORM_EPSILON, is_training=False
        )
        return outputs, (mean, variance)
    if onednn and images.dtype == tf.float32:
        outputs, batch_mean, batch_variance = _normalized(images, tf.identity(scale), tf.identity(offset))
    elif xla:
        outputs, batch_mean, batch_variance = _normalized_around_pixel(images, tf.identity(scale), tf.identity(offset))
    else:
        outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            images, scale, offset, epsilon=BATCH_NORM_EPSILON, is_training=True
        )
    moved = tuple(
        BATCH_NORM_DECAY * old + (1 - BATCH_NORM_DECAY) * new
        for old, new in ((mean, batch_mean), (variance, batch_variance))
    )
    return outputs, moved


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow ships no types
def _normalized(images: Any, scale: Any, offset: Any) -> Any:
    """Batch norm with sums computed as matrix products; the gradient is that of the fused operation.

    The forward pass of oneDNN reads memory a few channels at a time: 12.3 ms instead of 5.0 ms for [8, 14, 14, 1024] on
    one core, 23.5 ms instead of 17.5 ms for [8, 56, 56, 256]; 11 % of a step of resnext50-32x4d in total.
    """
    flat = tf.reshape(images, [-1, images.shape[-1]])
    count = tf.cast(tf.shape(flat)[0], tf.float32)
    shares = tf.fill([1, tf.shape(flat)[0]], 1 / count)
    mean = tf.matmul(shares, flat)[0]
    centered = flat - mean
    variance = tf.matmul(shares, tf.square(centered))[0]
    normal = centered * (scale * tf.math.rsqrt(variance + BATCH_NORM_EPSILON)) + offset

    def gradient(upstream: Any, *_statistics: Any) -> Any:
        of_images, of_scale, of_offset, _, _ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=upstream,
            x=images,
            scale=scale,
            reserve_space_1=mean,
            reserve_space_2=variance,
            reserve_space_3=tf.zeros([0]),
            epsilon=BATCH_NORM_EPSILON,
            is_training=True,
        )
        return of_images, of_scale, of_offset

    return (tf.reshape(normal, tf.shape(images)), mean, _unbiased(variance, count)), gradient


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow ships no types
def _normalized_around_pixel(images: Any, scale: Any, offset: Any) -> Any:
    """Batch norm with statistics in float32 of the differences from one pixel.

    XLA implements the fused operation with the variance E[x^2] - E[x]^2, which is off by 10 % if the mean is 1,000
    standard deviations, and NaN for some constant channels. Applied to the differences from one pixel, the same formula
    is precise, because these values are near zero; it needs no additional pass. The pixel is from the center, because
    zero padding makes borders differ from the mean.
    """
    spatial = [0, 1, 2]
    count = tf.cast(tf.size(images) // images.shape[-1], tf.float32)
    center = tf.cast(images[0, images.shape[1] // 2, images.shape[2] // 2], tf.float32)

    def around_center() -> Any:
        return tf.cast(images, tf.float32) - center

    distance = tf.reduce_mean(around_center(), spatial)
    variance = tf.maximum(tf.reduce_mean(tf.square(around_center()), spatial) - tf.square(distance), 0)
    inverse = tf.math.rsqrt(variance + BATCH_NORM_EPSILON)
    normal = (around_center() - distance) * (scale * inverse) + offset

    def gradient(upstream: Any, *_statistics: Any) -> Any:
        upstream = tf.cast(upstream, tf.float32)
        # From the images again, so that the backward pass keeps no float32 copy of them.
        centered = around_center() - distance
        of_offset = tf.reduce_sum(upstream, spatial)
        of_scale = tf.reduce_sum(upstream * centered, spatial) * inverse
        of_images = (upstream - of_offset / count - centered * (inverse * of_scale / count)) * (scale * inverse)
        return tf.cast(of_images, images.dtype), of_scale, of_offset

    return (tf.cast(normal, images.dtype), center + distance, _unbiased(variance, count)), gradient


def _unbiased(variance: Any, count: Any) -> Any:
    """The variance for the moving statistics, as in the fused operation. count: number of pixels."""
    return variance * count / tf.maximum(count - 1, 1)
