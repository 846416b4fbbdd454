"""What a configuration means, without training: the network's size, the steps, and the learning rate on the way."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from resnext_trainer.config import Training
from resnext_trainer.model import ResNeXt, build
from resnext_trainer.schedule import learning_rate

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along the training the learning rate is shown, beside the end of the warm-up."""

_PRODUCTS = {"Conv2D", "MatMul"}


@dataclass(frozen=True)
class Stage:
    """A part of the network, for one image."""

    name: str
    output: tuple[int, ...]
    """Height, width and channels of what it hands on; of the classifier, the classes."""
    weights: int
    macs: int
    """Products that are added up, in convolutions and the classifier.

    Batch norm is not counted, as torchvision does not; timm counts two for each of its outputs.
    """
    activations: int
    """Numbers that convolutions and the classifier put out: what training keeps in memory grows with them."""


def meaning(config: Training, world: int, training_images: int, at: Sequence[int] = ()) -> dict[str, Any]:
    """The facts, by the names under which they are printed; `at` are steps whose learning rate is wanted."""
    model = build(config.model, native_groups=True)
    decayed = model.decayed
    global_batch = config.global_batch(world)
    steps = training_images // global_batch

    def rate(epoch: float) -> float:
        return learning_rate(config.optimizer, global_batch, config.epochs, epoch)

    epochs = sorted({config.optimizer.warmup_epochs, *(share * config.epochs for share in _SHARES)})
    parts = stages(model, config.model.image_size)
    return {
        "architecture": config.model.architecture,
        "weights": model.count(),
        "macs": sum(stage.macs for stage in parts),
        "activations": sum(stage.activations for stage in parts),
        "stages": [asdict(stage) for stage in parts],
        "decayedVariables": len(decayed),
        "undecayedVariables": len(model.weights) - len(decayed),
        "precision": config.precision.mode,
        "trainingImages": training_images,
        "globalBatch": global_batch,
        "stepsPerEpoch": steps,
        "steps": steps * config.epochs,
        "learningRate": {f"{epoch:g}": rate(epoch) for epoch in epochs},
        # Without a whole step in an epoch there is no training, and no rate.
        "learningRateAtStep": {str(step): rate(step / steps) for step in at if steps},
        "config": config.model_dump(mode="json", by_alias=True),
    }


def stages(model: ResNeXt, image_size: int) -> list[Stage]:
    """The network part by part, read off the graph that TensorFlow makes of it: what counts is what is computed."""
    network = tf.function(lambda images: model(images, training=False)[0], autograph=False)
    graph = network.get_concrete_function(tf.TensorSpec([1, image_size, image_size, 3], tf.uint8)).graph
    # Both must be kept: a captured variable is known in the graph by its placeholder alone.
    names = {
        id(inside): name
        for outside, inside in graph.captures
        for name, variable in model.weights.items()
        if variable.handle is outside
    }
    found: dict[str, dict[str, Any]] = {}
    for operation in graph.get_operations():
        if operation.type not in _PRODUCTS:
            continue
        kernel = operation.inputs[1]
        name = names[id(_source(kernel))]
        part = found.setdefault(name.split("/")[0], {"macs": 0, "activations": 0, "output": ()})
        output = tuple(operation.outputs[0].shape[1:])
        part["macs"] += math.prod(output) * math.prod(kernel.shape[:-1])
        part["activations"] += math.prod(output)
        if "/block" not in name or name.endswith("/expand/kernel"):
            part["output"] = output
    return [Stage(name, weights=_weights(model, name), **part) for name, part in found.items()]


def _source(tensor: Any) -> Any:
    """Where a kernel comes from, behind reading and casting."""
    while tensor.op.inputs:
        tensor = tensor.op.inputs[0]
    return tensor


def _weights(model: ResNeXt, stage: str) -> int:
    return sum(math.prod(value.shape) for name, value in model.weights.items() if name.startswith(f"{stage}/"))


def training_images(config: Training) -> int:
    """How many there are; raises Refused where the data set is not as it should be."""
    if config.data.format == "synthetic":
        return config.data.synthetic_images
    from resnext_trainer.data import examples

    return len(examples(config, "train"))


def show(facts: dict[str, Any], *, as_json: bool) -> None:
    """JSON for programs, tables for people."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        match name:
            case "learningRate" | "learningRateAtStep":
                where = "epoch" if name == "learningRate" else "step"
                for point, rate in value.items():
                    table.add_row(f"learningRate at {where} {point}", f"{rate:.6g}")
            case "stages" | "config":
                pass
            case _:
                table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    parts = Table("stage", "output", "weights", "MACs", box=None)
    for stage in facts["stages"]:
        shape = " x ".join(map(str, stage["output"]))
        parts.add_row(stage["name"], shape, f"{stage['weights']:,}", f"{stage['macs']:,}")
    console = Console()
    console.print(table)
    console.print(parts)
