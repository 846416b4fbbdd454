"""ResNeXt (Xie et al. 2017, arXiv:1611.05431) and its relatives: the network as a function of its variables.

A ResNet (He et al. 2016, arXiv:1512.03385; the stride on the 3x3) is the one of a single group, SE-ResNeXt (Hu et al.
2018, arXiv:1709.01507) the one that weighs each block's channels.

The forward pass changes nothing: it returns the moving statistics of batch norm, and the caller keeps or drops them.
"""

import copy
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from resnext_trainer.config.models import Architecture, Model, Training
from resnext_trainer.model import layers

_DTYPES = {"fp16": tf.float16, "bf16": tf.bfloat16, "tf32": tf.float32, "fp32": tf.float32}

# The deviation of a standard normal cut at two; dividing by it keeps the variance that was asked for.
_TRUNCATED_DEVIATION = 0.87962566103423978

MEAN = (123.68, 116.28, 103.53)
STD = (58.395, 57.12, 57.385)
"""ImageNet's mean and deviation per colour, on the scale of 0 to 255."""


@dataclass(frozen=True)
class ArchitectureSpec:
    """What tells one network from another."""

    blocks: tuple[int, ...]
    """Blocks in each stage; a stage doubles the width and halves the image, but for a first one after a max-pool."""
    groups: int
    width: int
    """Channels of one group in the first stage."""
    channels: int = 256
    """Channels out of a block of the first stage."""
    squeeze: int | None = None
    """Squeeze and excitation: how many times fewer channels weigh a block's output; None is off."""
    stem: int = 64
    small_images: bool = False
    """A 3x3 stem in place of 7x7/2 and a max-pool: the image shrinks to an eighth in all, not to a thirty-second."""


_STAGES_50, _STAGES_101 = (3, 4, 6, 3), (3, 4, 23, 3)

ARCHITECTURES: Mapping[Architecture, ArchitectureSpec] = {
    "resnext101-32x4d": ArchitectureSpec(_STAGES_101, groups=32, width=4),
    "resnext101-32x8d": ArchitectureSpec(_STAGES_101, groups=32, width=8),
    "resnext101-64x4d": ArchitectureSpec(_STAGES_101, groups=64, width=4),
    "se-resnext101-32x4d": ArchitectureSpec(_STAGES_101, groups=32, width=4, squeeze=16),
    "resnext50-32x4d": ArchitectureSpec(_STAGES_50, groups=32, width=4),
    "resnext26-32x4d": ArchitectureSpec((2, 2, 2, 2), groups=32, width=4),
    "resnext17-8x4d": ArchitectureSpec((1, 2, 2), groups=8, width=4, channels=64, stem=32, small_images=True),
    "resnet50": ArchitectureSpec(_STAGES_50, groups=1, width=64),
    "resnet101": ArchitectureSpec(_STAGES_101, groups=1, width=64),
}


def architecture_spec(model: Model) -> ArchitectureSpec:
    """The network that a configuration asks for."""
    if model.custom is None:
        return ARCHITECTURES[model.architecture]
    own = model.custom
    return ArchitectureSpec(
        own.blocks, own.groups, own.width, own.channels, own.squeeze, own.stem, small_images=own.small_images
    )


@dataclass
class ResNeXt:
    """Variables by name, and the way through them. Weights are float32; `dtype` is what the products are made in."""

    shape: ArchitectureSpec
    classes: int
    seed: int = 0
    dtype: tf.DType = tf.float32
    symmetric: bool = False
    """Pad as much before as after, as PyTorch does, and not SAME, which pads the end first."""
    fan_out: bool = False
    """Variance of the kernels by the connections out of a unit, not into it."""
    zero_gamma: bool = False
    """Begin with blocks that pass on their input: a scale of zero in each one's last batch norm (Goyal et al. 2017)."""
    native_groups: bool = False
    """Leave grouped convolutions to the device (cuDNN does them well) or make dense blocks of them (CPU, XLA)."""
    onednn: bool = False
    """Use what oneDNN does well, which is a CPU's way outside of XLA; where it is missing, dense blocks remain."""
    xla: bool = False
    """Whether XLA compiles `eval_step` of this network."""
    graphs: dict[Any, Any] = field(default_factory=dict, repr=False)
    weights: dict[str, Any] = field(default_factory=dict)
    """Trained by gradient."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Batch norm's moving means and variances."""

    def __post_init__(self) -> None:
        self._initial: dict[str, Callable[[], np.ndarray]] = {}
        self._stem()
        channels = self.shape.stem
        for name, _stride, width in self._blocks():
            channels = self._declare_block(name, channels, width)
        self._weight("classifier/kernel", (channels, self.classes), channels)
        self._constant(self.weights, "classifier/bias", self.classes, 0.0)

    def __call__(self, images: Any, *, training: bool) -> tuple[Any, dict[str, Any]]:
        """Logits in float32 of images [batch, size, size, 3] in uint8, and the moving statistics after this batch."""
        moved: dict[str, Any] = {}
        normal = (tf.cast(images, tf.float32) - MEAN) / STD
        net = self._convolve("stem", tf.cast(normal, self.dtype), 1 if self.shape.small_images else 2, moved, training)
        net = tf.nn.relu(net)
        if not self.shape.small_images:
            # Zeros change no maximum here: nothing is below zero after a ReLU.
            net = (
                tf.nn.max_pool2d(layers.pad_spatial(net, 1), 3, 2, "VALID")
                if self.symmetric
                else (tf.nn.max_pool2d(net, 3, 2, "SAME"))
            )
        for name, stride, _width in self._blocks():
            net = self._block(name, net, stride, moved, training)
        pooled = tf.reduce_mean(tf.cast(net, tf.float32), axis=[1, 2])
        # The classifier's products are cheap and its sums are long: float32 in every mode.
        return tf.matmul(pooled, self.weights["classifier/kernel"]) + self.weights["classifier/bias"], moved

    @property
    def decayed_weights(self) -> list[str]:
        """The weights under weight decay: all but batch norm's scale and offset."""
        return [name for name in self.weights if not name.endswith(("/scale", "/offset"))]

    def count(self) -> int:
        """Number of trained weights."""
        return sum(math.prod(weight.shape) for weight in self.weights.values())

    def reset(self) -> None:
        """Gives every variable its initial value again."""
        for name, variable in {**self.weights, **self.statistics}.items():
            variable.assign(self._initial[name]())

    def with_native_groups(self) -> "ResNeXt":
        """A network with the same variables that leaves grouped convolutions to whatever executes its graph."""
        other = copy.copy(self)
        other.native_groups, other.graphs = True, {}
        return other

    def _blocks(self) -> list[tuple[str, int, int]]:
        """Name, stride and inner width of each block."""
        return [
            (
                f"stage{stage + 1}/block{block + 1}",
                2 if not block and (stage or self.shape.small_images) else 1,
                self._inner_width(stage),
            )
            for stage, blocks in enumerate(self.shape.blocks)
            for block in range(blocks)
        ]

    def _inner_width(self, stage: int) -> int:
        return (self.shape.groups * self.shape.width) << stage

    def _outer_width(self, inner_width: int) -> int:
        return inner_width * self.shape.channels // self._inner_width(0)

    def _block(self, name: str, images: Any, stride: int, moved: dict[str, Any], training: bool) -> Any:
        net = tf.nn.relu(self._convolve(f"{name}/reduce", images, 1, moved, training))
        net = tf.nn.relu(self._convolve(f"{name}/grouped", net, stride, moved, training, self.shape.groups))
        net = self._convolve(f"{name}/expand", net, 1, moved, training)
        if self.shape.squeeze:
            net = self._squeeze_excite(name, net)
        if f"{name}/shortcut/kernel" in self.weights:
            images = self._convolve(f"{name}/shortcut", images, stride, moved, training)
        return tf.nn.relu(net + images)

    def _squeeze_excite(self, name: str, images: Any) -> Any:
        """Each channel times a share of it that the means of all channels decide."""
        # In float32: the sum over 56x56 pixels ends at 65504 in float16, which a mean of 30 exceeds.
        net = tf.cast(tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]), self.dtype)
        for part, activation in (("squeeze", tf.nn.relu), ("excite", tf.nn.sigmoid)):
            kernel, bias = (tf.cast(self.weights[f"{name}/{part}/{each}"], self.dtype) for each in ("kernel", "bias"))
            net = activation(tf.matmul(net, kernel) + bias)
        return images * net[:, None, None, :]

    def _convolve(
        self, name: str, images: Any, stride: int, moved: dict[str, Any], training: bool, groups: int = 1
    ) -> Any:
        """Convolution and batch norm."""
        kernel = tf.cast(self.weights[f"{name}/kernel"], self.dtype)
        net = layers.convolution(
            images,
            kernel,
            stride,
            groups,
            native_groups=self.native_groups,
            onednn=self.onednn,
            symmetric=self.symmetric,
        )
        mean, variance = f"{name}/mean", f"{name}/variance"
        net, (moved[mean], moved[variance]) = layers.batch_norm(
            net,
            self.weights[f"{name}/scale"],
            self.weights[f"{name}/offset"],
            self.statistics[mean],
            self.statistics[variance],
            self.onednn,
            training=training,
        )
        return net

    def _stem(self) -> None:
        self._declare("stem", 3 if self.shape.small_images else 7, 3, self.shape.stem)

    def _declare_block(self, name: str, channels: int, width: int) -> int:
        outer = self._outer_width(width)
        self._declare(f"{name}/reduce", 1, channels, width)
        self._declare(f"{name}/grouped", 3, width, width, self.shape.groups)
        self._declare(f"{name}/expand", 1, width, outer, scale=0.0 if self.zero_gamma else 1.0)
        if self.shape.squeeze:
            squeezed = outer // self.shape.squeeze
            for part, size_in, size_out in (("squeeze", outer, squeezed), ("excite", squeezed, outer)):
                self._weight(f"{name}/{part}/kernel", (size_in, size_out), size_in)
                self._constant(self.weights, f"{name}/{part}/bias", size_out, 0.0)
        if name.endswith("/block1"):
            self._declare(f"{name}/shortcut", 1, channels, outer)
        return outer

    def _declare(
        self, name: str, size: int, channels_in: int, channels_out: int, groups: int = 1, scale: float = 1.0
    ) -> None:
        """Kernel and batch norm; what counts for the fan of a grouped kernel is one group."""
        fan = size * size * (channels_out if self.fan_out else channels_in) // groups
        self._weight(f"{name}/kernel", (size, size, channels_in // groups, channels_out), fan)
        self._constant(self.weights, f"{name}/scale", channels_out, scale)
        self._constant(self.weights, f"{name}/offset", channels_out, 0.0)
        self._constant(self.statistics, f"{name}/mean", channels_out, 0.0)
        self._constant(self.statistics, f"{name}/variance", channels_out, 1.0)

    def _weight(self, name: str, shape: tuple[int, ...], fan: int) -> None:
        """Dense kernels have the fan-in always; biases begin at zero."""
        self._add(self.weights, name, lambda: _truncated_normal(self.seed, name, shape, fan))

    def _constant(self, group: dict[str, Any], name: str, channels: int, value: float) -> None:
        self._add(group, name, lambda: np.full(channels, value, np.float32))

    def _add(self, group: dict[str, Any], name: str, initial: Callable[[], np.ndarray]) -> None:
        self._initial[name] = initial
        group[name] = tf.Variable(initial(), name=name)


def _truncated_normal(seed: int, name: str, shape: tuple[int, ...], fan: int) -> np.ndarray:
    """Truncated normal of variance 2 / fan (He et al. 2015), a function of the seed and the weight's name."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = random.standard_normal(shape, dtype=np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = random.standard_normal(int(outside.sum()), dtype=np.float32)
    values *= math.sqrt(2 / fan) / _TRUNCATED_DEVIATION
    return values


def build(
    model: Model,
    seed: int = 0,
    dtype: tf.DType = tf.float32,
    *,
    native_groups: bool = False,
    onednn: bool = False,
    xla: bool = False,
) -> ResNeXt:
    """The network that a configuration asks for, with its first weights."""
    return ResNeXt(
        architecture_spec(model),
        model.classes,
        seed,
        dtype,
        symmetric=model.padding == "symmetric",
        fan_out=model.init_mode == "fan_out",
        zero_gamma=model.zero_init_gamma,
        native_groups=native_groups,
        onednn=onednn,
        xla=xla,
    )


def build_for_device(config: Training, device: str) -> ResNeXt:
    """The network in the precision and for the device that a configuration asks for; `device` is gpu or cpu."""
    gpu = device == "gpu"
    return build(
        config.model,
        config.seed,
        _DTYPES[config.precision.mode],
        native_groups=gpu,
        onednn=not gpu and not config.xla,
        xla=config.xla,
    )
