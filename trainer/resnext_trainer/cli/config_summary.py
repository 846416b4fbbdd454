"""Summary of a configuration without training: model size, number of steps, and learning rate."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.cost import stages
from resnext_trainer.model.resnext import build
from resnext_trainer.runtime import cpus, environment
from resnext_trainer.training.schedule import learning_rate

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions of the training at which the learning rate is shown, in addition to the end of the warm-up."""

_IMAGENET_CLASSES = 1000
_IMAGENET_IMAGES = (1_281_167, 50_000)
"""ILSVRC 2012: number of training and validation images."""


@dataclass(frozen=True)
class Images:
    """Number of images of a training."""

    training: int
    validation: int | None
    source: str
    """Origin of the numbers, for the output."""


def summarize_config(config: Training, world: int, images: Images, at: Sequence[int] = ()) -> dict[str, Any]:
    """Summary by printed name. world: number of ranks; at: steps whose learning rate to include."""
    model = build(config.model, native_groups=True)
    decayed = model.decayed_weights
    global_batch = config.global_batch(world)
    steps = images.training // global_batch

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
        "trainingImages": images.training,
        "validationImages": images.validation,
        "imagesFrom": images.source,
        "globalBatch": global_batch,
        "stepsPerEpoch": steps,
        "steps": steps * config.epochs,
        "learningRate": {f"{epoch:g}": rate(epoch) for epoch in epochs},
        # An epoch without a full step has no learning rate.
        "learningRateAtStep": {str(step): rate(step / steps) for step in at if steps},
        "cpusPerRank": cpus.per_rank(),
        "environment": environment.variables_for_speed(),
        "notes": _notes(config),
        "config": config.model_dump(mode="json", by_alias=True),
    }


def _notes(config: Training) -> list[str]:
    """Settings that do not apply everywhere."""
    data = config.data
    if data.fast_decode and data.format != "synthetic" and data.pipeline != "tfdata" and config.device != "cpu":
        return [
            "data.fastDecode: on GPUs, nvJPEG has no fast DCT; fastDecode replicates subsampled chroma there instead "
            "of interpolating it"
        ]
    return []


def count_images(config: Training, given: int | None) -> Images:
    """Number of images from --images, from the dataset, or of ImageNet if there is no dataset.

    Raises TrainingError if the dataset is invalid, or if it is missing and the model does not have 1000 classes.
    """
    if given is not None:
        return Images(given, None, "--images")
    if config.data.format == "synthetic":
        return Images(config.data.synthetic_images, None, "data.syntheticImages")
    path = config.data.path
    if not Path(path).exists():
        if config.model.classes != _IMAGENET_CLASSES:
            raise TrainingError(
                ExitStatus.INVALID_DATA,
                f"data.path: {path} does not exist, and ImageNet's counts apply to {_IMAGENET_CLASSES} classes only, "
                f"not to {config.model.classes}: pass --images with the number of training images",
            )
        return Images(*_IMAGENET_IMAGES, f"ImageNet, because data.path {path} does not exist")
    from resnext_trainer.data.input_pipeline import open_dataset

    training, validation = len(open_dataset(config, "train")), None
    with contextlib.suppress(TrainingError):  # a dataset that has no validation images yet
        validation = len(open_dataset(config, "validation"))
    return Images(training, validation, path)


def show(facts: dict[str, Any], *, as_json: bool) -> None:
    """Prints the summary as JSON or as tables."""
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
            case "environment":
                table.add_row(name, " ".join(f"{variable}={text}" for variable, text in value.items()))
            case "stages" | "config" | "notes":
                pass
            case _ if value is None:
                pass
            case _:
                table.add_row(name, f"{value:,}" if isinstance(value, int) else _printed(value))
    parts = Table("stage", "output", "weights", "MACs", box=None)
    for stage in facts["stages"]:
        shape = " x ".join(map(str, stage["output"]))
        parts.add_row(stage["name"], shape, f"{stage['weights']:,}", f"{stage['macs']:,}")
    recipe = Table("field", "value", box=None)
    for field, value in _fields(facts["config"]):
        recipe.add_row(field, _printed(value))
    console = Console()
    for each in (table, parts, recipe, *facts["notes"]):
        console.print(each, markup=False)


def _fields(config: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of the resolved configuration, in the spelling of --set."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{parent}{name}.")
        else:
            yield f"{parent}{name}", value


def _printed(value: Any) -> str:
    return value if isinstance(value, str) else "unset" if value is None else json.dumps(value)
