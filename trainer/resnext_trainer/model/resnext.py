"""The forward pass of ResNeXt and its relatives: the network as a function of its variables.

The forward pass changes nothing: it returns the moving statistics of batch norm, and the caller keeps or drops them.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from resnext_trainer.config.models import Model, Training
from resnext_trainer.model import layers
from resnext_trainer.model.architectures import ArchitectureSpec, BlockSpec, architecture_spec
from resnext_trainer.model.parameters import parameter_specs

_DTYPES = {"fp16": tf.float16, "bf16": tf.bfloat16, "tf32": tf.float32, "fp32": tf.float32}

MEAN = (123.68, 116.28, 103.53)
STD = (58.395, 57.12, 57.385)
"""ImageNet's mean and deviation per colour, on the scale of 0 to 255."""


@dataclass
class ResNeXt:
    """A network with its variables by name, all float32; `dtype` is the type of the products."""

    architecture: ArchitectureSpec
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
            # Zeros change no maximum here: nothing is below zero after a ReLU.
            net = (
                tf.nn.max_pool2d(layers.pad_spatial(net, 1), 3, 2, "VALID")
                if self.symmetric
                else (tf.nn.max_pool2d(net, 3, 2, "SAME"))
            )
        for block in self._blocks:
            net = self._block(block, net, updates, training)
        pooled = tf.reduce_mean(tf.cast(net, tf.float32), axis=[1, 2])
        # The classifier's products are cheap and its sums are long: float32 in every mode.
        return tf.matmul(pooled, self.weights["classifier/kernel"]) + self.weights["classifier/bias"], updates

    @property
    def decayed_weights(self) -> list[str]:
        """The weights under weight decay: all but batch norm's scale and offset."""
        return [name for name in self.weights if not name.endswith(("/scale", "/offset"))]

    def count(self) -> int:
        """Number of trained weights."""
        return sum(math.prod(weight.shape) for weight in self.weights.values())

    def reset(self) -> None:
        """Gives every variable its initial value again."""
        variables = {**self.weights, **self.statistics}
        for each in self._parameters:
            variables[each.name].assign(each.initial_value(self.seed))

    def with_native_groups(self) -> "ResNeXt":
        """A network with the same variables that leaves grouped convolutions to whatever executes its graph."""
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
        """Each channel times a share of it that the means of all channels decide."""
        # In float32: the sum over 56x56 pixels ends at 65504 in float16, which a mean of 30 exceeds.
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
