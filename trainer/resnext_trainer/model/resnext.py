"""Forward pass of the ResNeXt family.

The forward pass has no side effects: it returns the updated moving statistics, and the caller assigns them.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from resnext_trainer.config.architecture import Model
from resnext_trainer.config.models import Training
from resnext_trainer.model import layers
from resnext_trainer.model.architectures import ArchitectureSpec, BlockSpec, architecture_spec
from resnext_trainer.model.parameters import parameter_specs

_DTYPES = {"fp16": tf.float16, "bf16": tf.bfloat16, "tf32": tf.float32, "fp32": tf.float32}

MEAN = (123.68, 116.28, 103.53)
STD = (58.395, 57.12, 57.385)
"""Mean and standard deviation of ImageNet per channel, in the range 0 to 255."""


@dataclass
class ResNeXt:
    """A model with its float32 variables by name; `dtype` is the type of the computation."""

    architecture: ArchitectureSpec
    classes: int
    seed: int = 0
    dtype: tf.DType = tf.float32
    symmetric: bool = False
    """Symmetric padding as in PyTorch, instead of SAME, which pads more at the end."""
    fan_out: bool = False
    """Initialize convolutions by fan-out instead of fan-in."""
    zero_gamma: bool = False
    """Initialize gamma of the last batch norm of each residual block to zero (Goyal et al. 2017)."""
    native_groups: bool = False
    """Use grouped convolutions of the device (fast in cuDNN) instead of dense blocks (CPU, XLA)."""
    onednn: bool = False
    """Use operations that are fast in oneDNN (CPU without XLA). Without oneDNN, dense blocks are used."""
    xla: bool = False
    """Whether XLA compiles this model."""
    graphs: dict[Any, Any] = field(default_factory=dict, repr=False)
    weights: dict[str, Any] = field(default_factory=dict)
    """Trainable variables."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Moving means and variances of batch norm."""

    def __post_init__(self) -> None:
        self._blocks = self.architecture.block_specs()
        self._parameters = list(
            parameter_specs(self.architecture, self.classes, fan_out=self.fan_out, zero_gamma=self.zero_gamma)
        )
        for each in self._parameters:
            variables = self.weights if each.trained else self.statistics
            variables[each.name] = tf.Variable(each.initial_value(self.seed), name=each.name)

    def __call__(self, images: Any, *, training: bool) -> tuple[Any, dict[str, Any]]:
        """Logits in float32 of images [batch, size, size, 3] in uint8, and the moving statistics after this batch."""
        updates: dict[str, Any] = {}
        normal = (tf.cast(images, tf.float32) - MEAN) / STD
        stride = 1 if self.architecture.small_images else 2
        net = self._convolve("stem", tf.cast(normal, self.dtype), stride, updates, training)
        net = tf.nn.relu(net)
        if not self.architecture.small_images:
            # Zero padding does not change the maximum: values are non-negative after ReLU.
            net = (
                tf.nn.max_pool2d(layers.pad_spatial(net, 1), 3, 2, "VALID")
                if self.symmetric
                else (tf.nn.max_pool2d(net, 3, 2, "SAME"))
            )
        for block in self._blocks:
            net = self._block(block, net, updates, training)
        pooled = tf.reduce_mean(tf.cast(net, tf.float32), axis=[1, 2])
        # The classifier is cheap and its sums are long: float32 in every precision mode.
        return tf.matmul(pooled, self.weights["classifier/kernel"]) + self.weights["classifier/bias"], updates

    @property
    def decayed_weights(self) -> list[str]:
        """Names of the weights with weight decay: all except scale and offset of batch norm."""
        return [name for name in self.weights if not name.endswith(("/scale", "/offset"))]

    def count(self) -> int:
        """Number of trainable parameters."""
        return sum(math.prod(weight.shape) for weight in self.weights.values())

    def reset(self) -> None:
        """Resets every variable to its initial value."""
        variables = {**self.weights, **self.statistics}
        for each in self._parameters:
            variables[each.name].assign(each.initial_value(self.seed))

    def with_native_groups(self) -> "ResNeXt":
        """A model with the same variables that uses native grouped convolutions, for export."""
        other = copy.copy(self)
        other.native_groups, other.graphs = True, {}
        return other

    def _block(self, block: BlockSpec, images: Any, updates: dict[str, Any], training: bool) -> Any:
        name = block.name
        net = tf.nn.relu(self._convolve(f"{name}/reduce", images, 1, updates, training))
        net = tf.nn.relu(
            self._convolve(f"{name}/grouped", net, block.stride, updates, training, self.architecture.groups)
        )
        net = self._convolve(f"{name}/expand", net, 1, updates, training)
        if self.architecture.squeeze:
            net = self._squeeze_excite(name, net)
        if block.shortcut:
            images = self._convolve(f"{name}/shortcut", images, block.stride, updates, training)
        return tf.nn.relu(net + images)

    def _squeeze_excite(self, name: str, images: Any) -> Any:
        """Squeeze-and-excitation: scales each channel by a gate computed from the means of all channels."""
        # In float32: the sum over 56x56 pixels overflows float16 (65504) at a mean of 21.
        net = tf.cast(tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]), self.dtype)
        for part, activation in (("squeeze", tf.nn.relu), ("excite", tf.nn.sigmoid)):
            kernel, bias = (tf.cast(self.weights[f"{name}/{part}/{each}"], self.dtype) for each in ("kernel", "bias"))
            net = activation(tf.matmul(net, kernel) + bias)
        return images * net[:, None, None, :]

    def _convolve(
        self, name: str, images: Any, stride: int, updates: dict[str, Any], training: bool, groups: int = 1
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
        net, (updates[mean], updates[variance]) = layers.batch_norm(
            net,
            self.weights[f"{name}/scale"],
            self.weights[f"{name}/offset"],
            self.statistics[mean],
            self.statistics[variance],
            self.onednn,
            self.xla,
            training=training,
        )
        return net


def build(
    model: Model,
    seed: int = 0,
    dtype: tf.DType = tf.float32,
    *,
    native_groups: bool = False,
    onednn: bool = False,
    xla: bool = False,
) -> ResNeXt:
    """The model of a configuration, with initial weights."""
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
    """The model in the precision of the configuration, for `device` (gpu or cpu)."""
    gpu = device == "gpu"
    return build(
        config.model,
        config.seed,
        _DTYPES[config.precision.mode],
        native_groups=gpu,
        onednn=not gpu and not config.xla,
        xla=config.xla,
    )
