"""Multiply-accumulate operations, weights and activations of a model, counted in its TensorFlow graph."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from resnext_trainer.config.architecture import Model
from resnext_trainer.model.resnext import ResNeXt, build

_PRODUCTS = {"Conv2D", "MatMul"}


@dataclass(frozen=True)
class Stage:
    """Cost of one stage of the model, for one image."""

    name: str
    output: tuple[int, ...]
    """(height, width, channels) of the output; (classes,) for the classifier."""
    weights: int
    macs: int
    """Multiply-accumulate operations of convolutions and the classifier.

    Batch norm is not counted, as in torchvision; timm counts two operations per output.
    """
    activations: int
    """Number of outputs of convolutions and the classifier; the memory used for training grows with it."""


class Flops(NamedTuple):
    """Floating-point operations for one image: an addition and a multiplication per multiply-accumulate."""

    inference: int
    training: int
    """Forward pass and gradients."""


class _Product(NamedTuple):
    """A convolution or the matrix product of the classifier."""

    kernel: str
    output: tuple[int, ...]
    macs: int


def stages(model: ResNeXt, image_size: int) -> list[Stage]:
    """Stages of a model with `native_groups`."""
    found: dict[str, dict[str, Any]] = {}
    for product in _products(model, image_size):
        part = found.setdefault(product.kernel.split("/")[0], {"macs": 0, "activations": 0, "output": ()})
        part["macs"] += product.macs
        part["activations"] += math.prod(product.output)
        if "/block" not in product.kernel or product.kernel.endswith("/expand/kernel"):
            part["output"] = product.output
    return [Stage(name, weights=_weights(model, name), **part) for name, part in found.items()]


def flops(model: Model) -> Flops:
    """Operations of the convolutions and the classifier of a configured model.

    The gradients need two products for each one of the forward pass, one for the weights and one for the input, except
    that the images need no gradient.
    """
    with tf.device("CPU"):
        first, *others = (each.macs for each in _products(build(model, native_groups=True), model.image_size))
    forward = first + sum(others)
    return Flops(inference=2 * forward, training=2 * (3 * forward - first))


def _products(model: ResNeXt, image_size: int) -> list[_Product]:
    """Convolutions and matrix products of the forward pass of one image, in their order."""
    network = tf.function(lambda images: model(images, training=False)[0], autograph=False)
    graph = network.get_concrete_function(tf.TensorSpec([1, image_size, image_size, 3], tf.uint8)).graph
    # In the graph, a captured variable appears only as its placeholder: map placeholders to variable names.
    names = {
        id(inside): name
        for outside, inside in graph.captures
        for name, variable in model.weights.items()
        if variable.handle is outside
    }
    found = []
    for operation in graph.get_operations():
        if operation.type in _PRODUCTS:
            kernel = operation.inputs[1]
            output = tuple(operation.outputs[0].shape[1:])
            macs = math.prod(output) * math.prod(kernel.shape[:-1])
            found.append(_Product(names[id(_source(kernel))], output, macs))
    return found


def _source(tensor: Any) -> Any:
    """Source of a kernel, before reads and casts."""
    while tensor.op.inputs:
        tensor = tensor.op.inputs[0]
    return tensor


def _weights(model: ResNeXt, stage: str) -> int:
    return sum(math.prod(value.shape) for name, value in model.weights.items() if name.startswith(f"{stage}/"))
